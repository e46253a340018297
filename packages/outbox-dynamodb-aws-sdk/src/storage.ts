import { DeleteCommand, GetCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb'
import {
  type Clock,
  CorruptPayloadError,
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
import { type DocumentClient, send } from './client.ts'
import { dynamoError, failedCondition } from './errors.ts'
import { type EventItem, Items, leasedEvent, PART_BYTES, type PayloadItem, partId } from './items.ts'
import { parallel } from './parallel.ts'
import { type DueEvent, Queries } from './queries.ts'
import { prepareTables, type Tables } from './schema.ts'
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
  readonly #client: DocumentClient
  readonly #tables: Tables
  readonly #clock: Clock
  readonly #createTables: boolean
  readonly #items: Items
  readonly #writer: OutcomeWriter
  readonly #queries: Queries

  constructor(client: DocumentClient, options: DynamoDBStorageOptions) {
    this.#client = client
    this.#tables = options.tables
    this.#clock = options.clock
    this.#createTables = options.createTables
    this.#items = new Items(options.tables, options.clock)
    this.#writer = new OutcomeWriter(client, options.tables, this.#items, options.chunkPayloads)
    this.#queries = new Queries(client, options.tables)
    this.limits = {
      // Headers, names and numbers need some of the 400 KB as well.
      eventBytes: 380 * 1024,
      payloadBytes: options.chunkPayloads ? Math.floor(3.9 * 1024 * 1024) : PART_BYTES,
      payloadAdvice: options.chunkPayloads
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
    if (!tx) return mapped(parallel(outcomes, (outcome) => this.#writer.apply(outcome)))
    assertOpen(tx)
    const results: OutcomeResult[] = []
    for (const outcome of outcomes) results.push(await mapped(this.#collect(outcome, tx)))
    return results
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    const now = this.#clock.now()
    const due = await mapped(this.#queries.due(now, limit))
    const leased = await mapped(parallel(due, (event) => this.#take(event, now + leaseMs)))
    return leased.flatMap((event) => (event ? [leasedEvent(event)] : []))
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const until = this.#clock.now() + leaseMs
    const kept = await mapped(parallel(leases, (lease) => this.#prolong(lease, until)))
    return leases.flatMap(({ id }, index) => (kept[index] ? [] : [id]))
  }

  async getPayload(id: string, tx?: DynamoDBTransaction): Promise<Uint8Array | undefined> {
    if (tx) {
      assertOpen(tx)
      const change = tx.collected.payloads.get(id)
      if (change) return 'data' in change ? change.data.slice() : undefined
    }
    return mapped(this.#read(id))
  }

  async purge(limit: number): Promise<Purged> {
    const { events, payloads } = this.#tables
    const now = this.#clock.now()
    const done = await mapped(this.#queries.done(now, limit))
    const expired = await mapped(this.#queries.expired(now, limit))
    const gone = await mapped(
      parallel(done, (id) =>
        this.#deleteIf(events, id, 'closed = :done AND closed_at <= :now', { ':done': 'done', ':now': now }),
      ),
    )
    const removed = await mapped(
      parallel(expired, (id) => this.#deleteIf(payloads, id, 'expires_ms <= :now', { ':now': now })),
    )
    return {
      events: gone.filter(Boolean).length,
      payloads: expired.filter((id, index) => removed[index] && !id.includes('#')).length,
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

  /** Takes a due event, unless someone else has taken or settled it since the index was read. */
  async #take({ id, visible }: DueEvent, until: number): Promise<EventItem | undefined> {
    const request = new UpdateCommand({
      TableName: this.#tables.events,
      Key: { id },
      UpdateExpression: 'SET #state = :leased, visible = :until, attempt = attempt + :one',
      ConditionExpression: 'visible = :visible AND attribute_exists(due_shard)',
      ExpressionAttributeNames: { '#state': 'state' },
      ExpressionAttributeValues: { ':leased': 'leased', ':until': until, ':one': 1, ':visible': visible },
      ReturnValues: 'ALL_NEW',
    })
    return unlessRefused(
      send<{ Attributes?: EventItem }>(this.#client, request).then(({ Attributes }) => Attributes),
    )
  }

  async #prolong({ id, attempt }: Lease, until: number): Promise<boolean> {
    const request = new UpdateCommand({
      TableName: this.#tables.events,
      Key: { id },
      UpdateExpression: 'SET visible = :until',
      ConditionExpression: '#state = :leased AND attempt = :attempt',
      ExpressionAttributeNames: { '#state': 'state' },
      ExpressionAttributeValues: { ':until': until, ':leased': 'leased', ':attempt': attempt },
    })
    return (await unlessRefused(send(this.#client, request).then(() => true))) ?? false
  }

  async #deleteIf(
    TableName: string,
    id: string,
    condition: string,
    values: Record<string, unknown>,
  ): Promise<boolean> {
    const request = new DeleteCommand({
      TableName,
      Key: { id },
      ConditionExpression: condition,
      ExpressionAttributeValues: values,
    })
    return (await unlessRefused(send(this.#client, request).then(() => true))) ?? false
  }

  async #read(id: string): Promise<Uint8Array | undefined> {
    const first = await this.#part(id, 0)
    if (!first || first.expires_ms <= this.#clock.now()) return undefined
    if (first.parts === 1) return first.data
    const rest = Array.from({ length: first.parts - 1 }, (_, index) => index + 1)
    const parts = [first, ...(await parallel(rest, (part) => this.#part(id, part)))]
    if (parts.some((part) => part?.token !== first.token)) {
      throw new CorruptPayloadError(
        `payload "${id}" has ${first.parts} parts, and not all are there; it may just have been replaced`,
      )
    }
    return Buffer.concat(parts.map((part) => part?.data ?? new Uint8Array()))
  }

  async #part(id: string, part: number): Promise<PayloadItem | undefined> {
    const request = new GetCommand({
      TableName: this.#tables.payloads,
      Key: { id: partId(id, part) },
      ConsistentRead: true,
    })
    return (await send<{ Item?: PayloadItem }>(this.#client, request)).Item
  }

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
    return (await send<{ Item?: EventItem }>(this.#client, request)).Item
  }
}

function assertOpen(tx: DynamoDBTransaction): void {
  if (!(tx instanceof DynamoDBTransaction)) {
    throw new ForeignTransactionError('this is no transaction of the outbox; take one from outbox.begin()')
  }
  tx.assertOpen()
}

async function unlessRefused<R>(work: Promise<R>): Promise<R | undefined> {
  try {
    return await work
  } catch (error) {
    if (failedCondition(error)) return undefined
    throw error
  }
}

async function mapped<R>(work: Promise<R>): Promise<R> {
  try {
    return await work
  } catch (error) {
    throw dynamoError(error)
  }
}
