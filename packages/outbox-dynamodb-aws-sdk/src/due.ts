import type { QueryCommandInput } from '@aws-sdk/client-dynamodb'
import type { LeaseRequest, StorageStats, Waiting } from 'outbox-core'
import type { Addresses } from './addresses.ts'
import { attributes } from './attributes.ts'
import type { DocumentClient } from './client.ts'
import { blockedIn, dueIn } from './event-items.ts'
import type { Layout } from './layout.ts'
import { parallel, whatSucceeds } from './parallel.ts'
import { count, page } from './query.ts'
import { Quiet } from './quiet.ts'
import { CLOSED_INDEX, DUE_INDEX, type Tables } from './schema.ts'

/** What the due index says of an event, possibly a moment ago. */
export interface DueEvent {
  readonly id: string
  readonly address: string
  readonly visible: number
}

type Entry = Omit<DueEvent, 'address'>

interface Partition {
  readonly address: string
  readonly name: string
}

/** Reads the index of what is due, the partitions of an address at a time. */
export class Due {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #layout: Layout
  readonly #addresses: Addresses
  readonly quiet: Quiet = new Quiet()

  constructor(client: DocumentClient, tables: Tables, layout: Layout, addresses: Addresses) {
    this.#client = client
    this.#table = tables.events
    this.#layout = layout
    this.#addresses = addresses
  }

  /**
   * The oldest due events of each partition, at most an address's share of each, by age. A partition that is throttled does
   * not keep those of the others waiting.
   */
  async oldest(now: number, { limit, addresses }: LeaseRequest): Promise<readonly DueEvent[]> {
    const asked = this.quiet.asked(addresses, now)
    const partitions = asked.flatMap(({ address, limit: share }) =>
      this.#partitions(address).map((partition) => ({ ...partition, share: Math.min(share, limit) })),
    )
    const found = await whatSucceeds(partitions, async ({ address, name, share }) => {
      const due = this.#query(name, ' AND visible <= :now', { ':now': now })
      const { Items = [] } = await page<Entry>(this.#client, due, { Limit: share })
      return Items.map(({ id, visible }) => ({ id, address, visible }))
    })
    this.quiet.found(asked, new Set(found.map(({ address }) => address)), now)
    return found.toSorted((a, b) => a.visible - b.visible || (a.id < b.id ? -1 : 1))
  }

  /** The first of each partition, whatever there is. */
  async waiting(now: number): Promise<readonly Waiting[]> {
    const partitions = await this.#all()
    const firsts = await parallel(partitions, async ({ address, name }) => {
      const { Items: [first] = [] } = await page<Entry>(this.#client, this.#query(name), { Limit: 1 })
      return first ? [{ address, visible: first.visible }] : []
    })
    const byAddress = Map.groupBy(firsts.flat(), ({ address }) => address)
    this.quiet.stirred(byAddress.keys())
    return Array.from(byAddress, ([address, entries]) => ({
      address,
      oldestDueMs: now - Math.min(...entries.map(({ visible }) => visible)),
    }))
  }

  /** What can be counted in it. */
  async stats(now: number): Promise<Omit<StorageStats, 'dead'>> {
    const partitions = await this.#all()
    const due = await parallel(partitions, ({ name }) =>
      count(this.#client, this.#query(name, ' AND visible <= :now', { ':now': now })),
    )
    const leased = await parallel(partitions, ({ name }) => count(this.#client, this.#leased(name, now)))
    const blocked = await parallel(this.#layout.shards, (shard) => count(this.#client, this.#blocked(shard)))
    const oldest = Math.max(-1, ...(await this.waiting(now)).map(({ oldestDueMs }) => oldestDueMs))
    const byAddress = new Map<string, number>()
    for (const [index, { address }] of partitions.entries())
      byAddress.set(address, (byAddress.get(address) ?? 0) + (due[index] ?? 0))
    return {
      due: sum(due),
      dueByAddress: Object.fromEntries([...byAddress].filter(([, found]) => found > 0)),
      leased: sum(leased),
      blocked: sum(blocked),
      oldestDueMs: oldest < 0 ? null : oldest,
    }
  }

  async #all(): Promise<readonly Partition[]> {
    return (await this.#addresses.list()).flatMap((address) => this.#partitions(address))
  }

  #partitions(address: string): readonly Partition[] {
    return this.#layout.shards.map((shard) => ({ address, name: dueIn(address, shard) }))
  }

  #query(name: string, condition = '', values: Record<string, number> = {}): QueryCommandInput {
    return {
      ...{ TableName: this.#table, IndexName: DUE_INDEX },
      KeyConditionExpression: `due_shard = :shard${condition}`,
      ExpressionAttributeValues: attributes({ ':shard': name, ...values }),
    }
  }

  #leased(name: string, now: number): QueryCommandInput {
    const query = this.#query(name, ' AND visible > :now', { ':now': now })
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

  #blocked(shard: string): QueryCommandInput {
    return {
      ...{ TableName: this.#table, IndexName: CLOSED_INDEX, KeyConditionExpression: 'closed = :closed' },
      ExpressionAttributeValues: attributes({ ':closed': blockedIn(shard) }),
    }
  }
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, one) => total + one, 0)
}
