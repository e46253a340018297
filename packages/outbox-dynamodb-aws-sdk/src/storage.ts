import type {
  Clock,
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  Outcome,
  OutcomeResult,
  Purged,
  PurgeOptions,
  Storage,
  StorageLimits,
  StorageStats,
} from 'outbox-core'
import type { DocumentClient } from './client.ts'
import { assertOpen, Collecting } from './collecting.ts'
import { dynamoError } from './errors.ts'
import { Items, PART_BYTES, storedEvent } from './items.ts'
import { Layout } from './layout.ts'
import { Leases } from './lease.ts'
import { moment } from './moments.ts'
import { Payloads } from './payloads.ts'
import { prepareTables, type Warn } from './prepare.ts'
import { Purge } from './purge.ts'
import { Queries } from './queries.ts'
import type { Tables } from './schema.ts'
import { DynamoDBTransaction } from './transaction.ts'
import { OutcomeWriter } from './write.ts'

export interface DynamoDBStorageOptions {
  readonly tables: Tables
  readonly clock: Clock
  readonly createTables: boolean
  readonly chunkPayloads: boolean
  readonly warn: Warn
}

export class DynamoDBStorage implements Storage<DynamoDBTransaction> {
  readonly limits: StorageLimits
  readonly writesTogether = false
  readonly client: DocumentClient
  readonly #tables: Tables
  readonly #clock: Clock
  readonly #preparing: { readonly create: boolean; readonly warn: Warn }
  readonly #payloads: Payloads
  readonly #writer: OutcomeWriter
  readonly #collecting: Collecting
  readonly #layout: Layout
  readonly #queries: Queries
  readonly #leases: Leases
  readonly #purge: Purge

  constructor(client: DocumentClient, options: DynamoDBStorageOptions) {
    const { tables, clock, chunkPayloads: chunks } = options
    this.client = client
    this.#tables = tables
    this.#clock = clock
    this.#preparing = { create: options.createTables, warn: options.warn }
    this.#payloads = new Payloads(client, tables)
    const items = new Items(tables, clock)
    this.#writer = new OutcomeWriter(client, { tables, items, payloads: this.#payloads, chunks, clock })
    this.#collecting = new Collecting(client, { tables, items, writer: this.#writer })
    this.#layout = new Layout(client, tables)
    this.#queries = new Queries(client, tables, this.#layout)
    this.#leases = new Leases(client, tables, this.#queries)
    this.#purge = new Purge(client, tables, this.#queries)
    this.limits = {
      // Headers, names and numbers need some of the 400 KB as well.
      eventBytes: 380 * 1024,
      payloadBytes: chunks ? Math.floor(3.9 * 1024 * 1024) : PART_BYTES,
      payloadAdvice: chunks
        ? 'this is what one transaction takes: keep less in it'
        : 'this is what one item takes: pass chunkPayloads: true to the outbox, or keep less in it',
    }
  }

  async initialize(): Promise<void> {
    await mapped(prepareTables(this.client, this.#tables, this.#preparing))
    await mapped(this.#layout.announce())
    await mapped(this.#layout.agree())
  }

  async transaction<R>(work: (tx: DynamoDBTransaction) => Promise<R>): Promise<R> {
    const tx = new DynamoDBTransaction()
    try {
      const result = await work(tx)
      // What comes now is too late to be sent.
      tx.end()
      await mapped(this.#commit(tx))
      return result
    } finally {
      tx.end()
    }
  }

  async enlist<R>(tx: DynamoDBTransaction, work: (tx: DynamoDBTransaction) => Promise<R>): Promise<R> {
    assertOpen(tx)
    // Whoever sends it is not us.
    await mapped(this.#layout.announce())
    tx.attach(() => this.#writer.collectedItems(tx))
    return work(tx)
  }

  nested<R>(tx: DynamoDBTransaction, work: () => Promise<R>): Promise<R> {
    return this.#collecting.nested(tx, work)
  }

  async write(outcomes: readonly Outcome[], tx?: DynamoDBTransaction): Promise<readonly OutcomeResult[]> {
    return mapped(tx ? this.#collecting.add(outcomes, tx) : this.#write(outcomes))
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    await mapped(this.#layout.agree())
    const now = this.#clock.now()
    const until = moment(now + leaseMs)
    const leased = await mapped(this.#leases.take(now, limit, until))
    return leased.map((event) => ({ ...storedEvent(event), leasedAt: now }))
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const until = moment(this.#clock.now() + leaseMs)
    const kept = await mapped(this.#leases.extend(leases, until))
    return leases.flatMap(({ id }, index) => (kept[index] ? [] : [id]))
  }

  async keep(id: string, keepMs: number): Promise<void> {
    const until = moment(this.#clock.now() + keepMs)
    await mapped(this.#leases.keep(id, until))
  }

  async getPayload(id: string, tx?: DynamoDBTransaction): Promise<Uint8Array | undefined> {
    if (tx) {
      assertOpen(tx)
      const change = tx.collected.payloads.get(id)
      if (change) return 'data' in change ? change.data.slice() : undefined
    }
    return mapped(this.#payloads.read(id, this.#clock.now()))
  }

  async purge(limit: number, { background = false }: PurgeOptions = {}): Promise<Purged> {
    await mapped(this.#layout.refresh())
    const now = this.#clock.now()
    return {
      events: await mapped(this.#purge.events(now, limit)),
      // DynamoDB deletes them by itself; to find them is to read the whole table.
      payloads: background ? 0 : await mapped(this.#purge.payloads(now, limit)),
    }
  }

  async listDead(query: DeadQuery): Promise<DeadPage> {
    const { events, next } = await mapped(this.#queries.dead(query))
    const letters = events.map((event) => ({
      ...storedEvent(event),
      error: event.error ?? '',
      diedAt: event.closed_at ?? 0,
    }))
    return { events: letters, ...(next !== undefined && { next }) }
  }

  async stats(): Promise<StorageStats> {
    await mapped(this.#layout.refresh())
    return mapped(this.#queries.stats(this.#clock.now()))
  }

  async close(): Promise<void> {}

  async #write(outcomes: readonly Outcome[]): Promise<readonly OutcomeResult[]> {
    if (outcomes.some(({ append }) => append.length > 0)) await this.#layout.announce()
    return this.#writer.write(outcomes)
  }

  async #commit(tx: DynamoDBTransaction): Promise<void> {
    if (tx.collected.events.size > 0) await this.#layout.announce()
    await this.#writer.commit(tx)
  }
}

async function mapped<R>(work: Promise<R>): Promise<R> {
  try {
    return await work
  } catch (error) {
    throw dynamoError(error)
  }
}
