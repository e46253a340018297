import { GetCommand } from '@aws-sdk/lib-dynamodb'
import {
  type Clock,
  type DeadPage,
  type DeadQuery,
  ForeignTransactionError,
  type Lease,
  type LeasedEvent,
  type Outcome,
  type OutcomeResult,
  type Purged,
  type Storage,
  type StorageLimits,
  type StorageStats,
} from 'outbox-core'
import { type DocumentClient, plain, send } from './client.ts'
import { dynamoError } from './errors.ts'
import { type EventItem, Items, leasedEvent, PART_BYTES } from './items.ts'
import { Leases } from './lease.ts'
import { Payloads } from './payloads.ts'
import { prepareTables } from './prepare.ts'
import { Purge } from './purge.ts'
import { Queries } from './queries.ts'
import type { Tables } from './schema.ts'
import { type Collected, DynamoDBTransaction } from './transaction.ts'
import { OutcomeWriter } from './writer.ts'

export interface DynamoDBStorageOptions {
  readonly tables: Tables
  readonly clock: Clock
  readonly createTables: boolean
  readonly chunkPayloads: boolean
}

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

export class DynamoDBStorage implements Storage<DynamoDBTransaction> {
  readonly limits: StorageLimits
  readonly writesTogether = false
  readonly #client: DocumentClient
  readonly #tables: Tables
  readonly #clock: Clock
  readonly #createTables: boolean
  readonly #payloads: Payloads
  readonly #writer: OutcomeWriter
  readonly #queries: Queries
  readonly #leases: Leases
  readonly #purge: Purge

  constructor(client: DocumentClient, options: DynamoDBStorageOptions) {
    const { tables, clock, chunkPayloads: chunks } = options
    this.#client = client
    this.#tables = tables
    this.#clock = clock
    this.#createTables = options.createTables
    this.#payloads = new Payloads(client, tables)
    const items = new Items(tables, clock)
    this.#writer = new OutcomeWriter(client, { tables, items, payloads: this.#payloads, chunks })
    this.#queries = new Queries(client, tables)
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
    await mapped(prepareTables(this.#client, this.#tables, this.#createTables))
  }

  async transaction<R>(work: (tx: DynamoDBTransaction) => Promise<R>): Promise<R> {
    const tx = new DynamoDBTransaction()
    try {
      const result = await work(tx)
      await this.#writer.commit(tx)
      return result
    } finally {
      tx.end()
    }
  }

  async enlist<R>(tx: DynamoDBTransaction, work: (tx: DynamoDBTransaction) => Promise<R>): Promise<R> {
    assertOpen(tx)
    tx.attach(() => this.#writer.collectedItems(tx))
    return work(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: DynamoDBTransaction): Promise<readonly OutcomeResult[]> {
    if (!tx) return mapped(this.#writer.write(outcomes))
    assertOpen(tx)
    const results: OutcomeResult[] = []
    for (const outcome of outcomes) results.push(await mapped(this.#collect(outcome, tx)))
    return results
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    const now = this.#clock.now()
    const leased = await mapped(this.#leases.take(now, limit, now + leaseMs))
    return leased.map(leasedEvent)
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const kept = await mapped(this.#leases.extend(leases, this.#clock.now() + leaseMs))
    return leases.flatMap(({ id }, index) => (kept[index] ? [] : [id]))
  }

  async getPayload(id: string, tx?: DynamoDBTransaction): Promise<Uint8Array | undefined> {
    if (tx) {
      assertOpen(tx)
      const change = tx.collected.payloads.get(id)
      if (change) return 'data' in change ? change.data.slice() : undefined
    }
    return mapped(this.#payloads.read(id, this.#clock.now()))
  }

  async purge(limit: number): Promise<Purged> {
    const now = this.#clock.now()
    return {
      events: await mapped(this.#purge.events(now, limit)),
      payloads: await mapped(this.#purge.payloads(now, limit)),
    }
  }

  async listDead(query: DeadQuery): Promise<DeadPage> {
    const { events, next } = await mapped(this.#queries.dead(query))
    const letters = events.map((event) => ({
      ...leasedEvent(event),
      error: event.error ?? '',
      diedAt: event.closed_at ?? 0,
    }))
    return { events: letters, ...(next !== undefined && { next }) }
  }

  stats(): Promise<StorageStats> {
    return mapped(this.#queries.stats(this.#clock.now()))
  }

  async close(): Promise<void> {}

  /** Adds an outcome to a transaction. What would refuse it is asked now; the transaction itself asks again. */
  async #collect(outcome: Outcome, { collected }: DynamoDBTransaction): Promise<OutcomeResult> {
    const result = await this.#judge(outcome, collected)
    if (result !== APPLIED) return result
    const { settle, append, put, remove } = outcome
    if (settle) collected.settlements.set(settle.id, settle)
    for (const event of append) {
      collected.events.set(event.id, event)
      if (event.fingerprint !== null)
        collected.claims.set(
          event.id,
          put.map(({ id }) => id),
        )
    }
    for (const id of remove) collected.payloads.set(id, { parts: await this.#writer.parts(id) })
    for (const record of put) collected.payloads.set(record.id, { ...record, data: record.data.slice() })
    return APPLIED
  }

  async #judge(
    { settle, append: [event] }: Outcome,
    { settlements, events }: Collected,
  ): Promise<OutcomeResult> {
    if (settle) {
      if (settlements.has(settle.id)) return LOST
      const known = await this.#event(settle.id)
      const needed = settle.kind === 'revive' || settle.kind === 'discard' ? 'dead' : 'leased'
      if (known?.state !== needed || known.attempt !== settle.attempt) return LOST
    }
    if (!event || event.fingerprint === null) return APPLIED
    const earlier = events.get(event.id)
    if (earlier) return { status: 'duplicate', fingerprint: earlier.fingerprint }
    const known = await this.#event(event.id)
    return known ? { status: 'duplicate', fingerprint: known.fingerprint ?? null } : APPLIED
  }

  async #event(id: string): Promise<EventItem | undefined> {
    const request = new GetCommand({ TableName: this.#tables.events, Key: { id }, ConsistentRead: true })
    const { Item } = await send<{ Item?: EventItem }>(this.#client, request)
    return Item && plain(Item)
  }
}

function assertOpen(tx: DynamoDBTransaction): void {
  if (!(tx instanceof DynamoDBTransaction)) {
    throw new ForeignTransactionError('this is no transaction of the outbox; take one from outbox.begin()')
  }
  tx.assertOpen()
}

async function mapped<R>(work: Promise<R>): Promise<R> {
  try {
    return await work
  } catch (error) {
    throw dynamoError(error)
  }
}
