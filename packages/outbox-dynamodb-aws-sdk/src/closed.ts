import { type QueryCommandInput, ScanCommand } from '@aws-sdk/client-dynamodb'
import type { DeadCursor, DeadQuery } from 'outbox-core'
import { type Attributes, attributes, plain } from './attributes.ts'
import { itemsOf } from './batch.ts'
import { type DocumentClient, send } from './client.ts'
import { doneIn, type EventItem } from './event-items.ts'
import type { Layout } from './layout.ts'
import { whatSucceeds } from './parallel.ts'
import { count, page } from './query.ts'
import { CLOSED_INDEX, type Tables } from './schema.ts'

interface ClosedEvent {
  readonly id: string
  readonly closed_at: number
}

interface ItemKey {
  readonly id: string
}

/** Dead letters, and the index's key of the last one when there may be more. */
interface DeadItems {
  readonly events: readonly EventItem[]
  readonly next?: DeadCursor
}

type Values = Record<string, string | number>

/** Reads what has come to an end: done events, dead letters, expired payloads. */
export class Closed {
  readonly #client: DocumentClient
  readonly #tables: Tables
  readonly #layout: Layout

  constructor(client: DocumentClient, tables: Tables, layout: Layout) {
    this.#client = client
    this.#tables = tables
    this.#layout = layout
  }

  /** Ids of completed events past their retention; one shard that is throttled does not keep the others' waiting. */
  async done(now: number, limit: number): Promise<readonly string[]> {
    const found = await whatSucceeds(this.#layout.shards, async (shard) => {
      const query = this.#closed(doneIn(shard), ' AND closed_at <= :now', { ':now': now })
      const { Items = [] } = await page<ClosedEvent>(this.#client, query, { Limit: limit })
      return Items
    })
    const done = found.toSorted((a, b) => a.closed_at - b.closed_at || (a.id < b.id ? -1 : 1))
    return done.slice(0, limit).map(({ id }) => id)
  }

  /**
   * Ids of items that hold expired payloads, and where to go on, in some order. It reads the whole table, as much of it as
   * DynamoDB reads at once.
   */
  async expired(now: number, after: string | undefined): Promise<{ ids: readonly string[]; next?: string }> {
    const request = new ScanCommand({
      TableName: this.#tables.payloads,
      ProjectionExpression: 'id',
      FilterExpression: 'expires_ms <= :now',
      ExpressionAttributeValues: attributes({ ':now': now }),
      ...(after !== undefined && { ExclusiveStartKey: attributes({ id: after }) }),
    })
    type Scanned = { Items?: readonly Attributes[]; LastEvaluatedKey?: Attributes }
    const { Items = [], LastEvaluatedKey: last } = await send<Scanned>(this.#client, request)
    const ids = Items.map((item) => plain<ItemKey>(item).id)
    return { ids, ...(last && { next: plain<ItemKey>(last).id }) }
  }

  /** A page of dead letters, by when they died. */
  async dead({ limit, ids, type, after }: DeadQuery): Promise<DeadItems> {
    if (ids) return this.#deadById(ids, type, after, limit)
    const events: EventItem[] = []
    let start = after && attributes({ id: after[1], closed: 'dead', closed_at: after[0] })
    do {
      const more = { Limit: limit - events.length, ...(start && { ExclusiveStartKey: start }) }
      const { Items = [], LastEvaluatedKey } = await page<ClosedEvent>(
        this.#client,
        this.#closed('dead'),
        more,
      )
      const found = await this.#events(Items.map(({ id }) => id))
      events.push(...found.filter((event) => isDead(event, type)))
      start = LastEvaluatedKey
    } while (start && events.length < limit)
    if (!start) return { events }
    const { closed_at, id } = plain<ClosedEvent>(start)
    return { events, next: [closed_at, id] }
  }

  countDead(): Promise<number> {
    return count(this.#client, this.#closed('dead'))
  }

  async #deadById(
    ids: readonly string[],
    type: string | undefined,
    [since, last]: DeadCursor = [-1, ''],
    limit: number,
  ): Promise<DeadItems> {
    const found = (await this.#events(ids)).filter((event) => isDead(event, type))
    const events = found
      .filter(({ id, closed_at = 0 }) => closed_at > since || (closed_at === since && id > last))
      .toSorted((a, b) => (a.closed_at ?? 0) - (b.closed_at ?? 0) || (a.id < b.id ? -1 : 1))
      .slice(0, limit)
    const letter = events.length === limit ? events.at(-1) : undefined
    return { events, ...(letter && { next: [letter.closed_at ?? 0, letter.id] }) }
  }

  #events(ids: readonly string[]): Promise<readonly EventItem[]> {
    return itemsOf(this.#client, this.#tables.events, ids)
  }

  #closed(where: string, condition = '', values: Values = {}): QueryCommandInput {
    return {
      TableName: this.#tables.events,
      IndexName: CLOSED_INDEX,
      KeyConditionExpression: `closed = :closed${condition}`,
      ExpressionAttributeValues: attributes({ ':closed': where, ...values }),
    }
  }
}

function isDead(event: EventItem, type: string | undefined): boolean {
  return event.state === 'dead' && (type === undefined || event.type === type)
}
