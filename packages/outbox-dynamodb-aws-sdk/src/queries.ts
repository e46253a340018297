import { setTimeout as sleep } from 'node:timers/promises'
import {
  BatchGetItemCommand,
  QueryCommand,
  type QueryCommandInput,
  ScanCommand,
} from '@aws-sdk/client-dynamodb'
import { type DeadCursor, type DeadQuery, StorageError, type StorageStats } from 'outbox-core'
import { type Attributes, attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'
import { doneIn, type EventItem } from './items.ts'
import type { Layout } from './layout.ts'
import { parallel, whatSucceeds } from './parallel.ts'
import { CLOSED_INDEX, DUE_INDEX, type Tables } from './schema.ts'

/** What the due index says of an event, possibly a moment ago. */
export interface DueEvent {
  readonly id: string
  readonly visible: number
}

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

interface Page<Item> {
  readonly Items?: readonly Item[]
  readonly Count?: number
  readonly LastEvaluatedKey?: Attributes
}

type Values = Record<string, string | number>

// BatchGetItem takes no more keys.
const BATCH = 100
const MOST_TRIES = 8

/** Reads through the indexes, every shard of them. */
export class Queries {
  readonly #client: DocumentClient
  readonly #tables: Tables
  readonly #layout: Layout

  constructor(client: DocumentClient, tables: Tables, layout: Layout) {
    this.#client = client
    this.#tables = tables
    this.#layout = layout
  }

  /** The oldest due events of each shard, at most so many each, by age. */
  due(now: number, limit: number): Promise<readonly DueEvent[]> {
    return this.#first<DueEvent>(
      (shard) => this.#dueIn(shard, '<=', now),
      ({ visible }) => visible,
      limit,
    )
  }

  /** Ids of completed events past their retention. */
  async done(now: number, limit: number): Promise<readonly string[]> {
    const done = await this.#first<ClosedEvent>(
      (shard) => this.#closed(doneIn(shard), ' AND closed_at <= :now', { ':now': now }),
      ({ closed_at }) => closed_at,
      limit,
    )
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
    const { Items = [], LastEvaluatedKey: last } = await send<Page<Attributes>>(this.#client, request)
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
      const page = await this.#page<ClosedEvent>(this.#closed('dead'), more)
      const found = await this.#events((page.Items ?? []).map(({ id }) => id))
      events.push(...found.filter((event) => isDead(event, type)))
      start = page.LastEvaluatedKey
    } while (start && events.length < limit)
    if (!start) return { events }
    const { closed_at, id } = plain<ClosedEvent>(start)
    return { events, next: [closed_at, id] }
  }

  async stats(now: number): Promise<StorageStats> {
    const due = await parallel(this.#layout.shards, (shard) => this.#count(this.#dueIn(shard, '<=', now)))
    const leased = await parallel(this.#layout.shards, (shard) => this.#count(this.#leasedIn(shard, now)))
    const [oldest] = await this.due(now, 1)
    return {
      due: due.reduce((sum, count) => sum + count, 0),
      leased: leased.reduce((sum, count) => sum + count, 0),
      dead: await this.#count(this.#closed('dead')),
      oldestDueMs: oldest ? now - oldest.visible : null,
    }
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

  /** Whole events, in the order of their ids. */
  async #events(ids: readonly string[]): Promise<readonly EventItem[]> {
    const found = new Map<string, EventItem>()
    let keys: Attributes[] = [...new Set(ids)].map((id) => attributes({ id }))
    for (let tries = 0; keys.length > 0; ) {
      const asked = keys.slice(0, BATCH)
      const { events, left } = await this.#batch(asked)
      for (const event of events) found.set(event.id, event)
      keys = [...left, ...keys.slice(BATCH)]
      // Throttled, the table answers a part of them, or none.
      tries = left.length < asked.length ? 0 : tries + 1
      if (tries === MOST_TRIES) {
        throw new StorageError(
          `table "${this.#tables.events}" is throttled: it answers nothing of a BatchGetItem`,
          {
            transient: true,
          },
        )
      }
      if (left.length > 0) await sleep(Math.random() * 10 * 2 ** tries)
    }
    return ids.flatMap((id) => found.get(id) ?? [])
  }

  async #batch(keys: Attributes[]): Promise<{ events: readonly EventItem[]; left: readonly Attributes[] }> {
    const table = this.#tables.events
    const request = { RequestItems: { [table]: { Keys: keys, ConsistentRead: true } } }
    const { Responses = {}, UnprocessedKeys = {} } = await send<{
      Responses?: Record<string, Attributes[]>
      UnprocessedKeys?: Record<string, { Keys?: Attributes[] }>
    }>(this.#client, new BatchGetItemCommand(request))
    return {
      events: (Responses[table] ?? []).map(plain<EventItem>),
      left: UnprocessedKeys[table]?.Keys ?? [],
    }
  }

  /** The first of each shard, by time. One shard that is throttled does not keep the others' waiting. */
  async #first<Item extends { readonly id: string }>(
    query: (shard: string) => QueryCommandInput,
    time: (item: Item) => number,
    limit: number,
  ): Promise<readonly Item[]> {
    const found = await whatSucceeds(this.#layout.shards, async (shard) => {
      const { Items = [] } = await this.#page<Item>(query(shard), { Limit: limit })
      return Items
    })
    return found.toSorted((a, b) => time(a) - time(b) || (a.id < b.id ? -1 : 1))
  }

  #dueIn(shard: string, comparison: '<=' | '>', now: number): QueryCommandInput {
    return {
      TableName: this.#tables.events,
      IndexName: DUE_INDEX,
      KeyConditionExpression: `due_shard = :shard AND visible ${comparison} :now`,
      ExpressionAttributeValues: attributes({ ':shard': shard, ':now': now }),
    }
  }

  #leasedIn(shard: string, now: number): QueryCommandInput {
    const query = this.#dueIn(shard, '>', now)
    return {
      ...query,
      FilterExpression: '#state = :leased',
      ExpressionAttributeNames: { '#state': 'state' },
      ExpressionAttributeValues: {
        ...query.ExpressionAttributeValues,
        ...attributes({ ':leased': 'leased' }),
      },
    }
  }

  #closed(where: string, condition = '', values: Values = {}): QueryCommandInput {
    return {
      TableName: this.#tables.events,
      IndexName: CLOSED_INDEX,
      KeyConditionExpression: `closed = :closed${condition}`,
      ExpressionAttributeValues: attributes({ ':closed': where, ...values }),
    }
  }

  async #count(query: QueryCommandInput): Promise<number> {
    let count = 0
    let start: Attributes | undefined
    do {
      const page = await this.#page(query, { Select: 'COUNT', ...(start && { ExclusiveStartKey: start }) })
      count += page.Count ?? 0
      start = page.LastEvaluatedKey
    } while (start)
    return count
  }

  async #page<Item>(query: QueryCommandInput, more: Partial<QueryCommandInput>): Promise<Page<Item>> {
    const { Items, ...page } = await send<Page<Attributes>>(
      this.#client,
      new QueryCommand({ ...query, ...more }),
    )
    return { ...page, ...(Items && { Items: Items.map(plain<Item>) }) }
  }
}

function isDead(event: EventItem, type: string | undefined): boolean {
  return event.state === 'dead' && (type === undefined || event.type === type)
}
