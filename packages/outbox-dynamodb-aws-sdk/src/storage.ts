import type {
  Clock,
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  LeaseRequest,
  Outcome,
  OutcomeResult,
  Purged,
  PurgeOptions,
  Storage,
  StorageLimits,
  StorageStats,
  Waiting,
} from 'outbox-core'
import { Addresses } from './addresses.ts'
import { Behind } from './behind.ts'
import type { DocumentClient } from './client.ts'
import { Closed } from './closed.ts'
import { assertOpen, Collecting } from './collecting.ts'
import { Due } from './due.ts'
import { dynamoError } from './errors.ts'
import { type EventItem, EventItems, storedEvent } from './event-items.ts'
import { HeldPlaces } from './held-places.ts'
import { Keys } from './keys.ts'
import { Layout } from './layout.ts'
import { Leases } from './lease.ts'
import { moment } from './moments.ts'
import { OldEvents } from './old-events.ts'
import { PART_BYTES, PayloadItems } from './payload-items.ts'
import { Payloads } from './payloads.ts'
import { prepareTables, type Warn } from './prepare.ts'
import { Purge } from './purge.ts'
import type { Tables } from './schema.ts'
import type { DynamoDBTransaction } from './transaction.ts'
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
  readonly #keys: Keys
  readonly #held = new HeldPlaces()
  readonly #behind: Behind
  readonly #due: Due
  readonly #closed: Closed
  readonly #oldEvents: OldEvents
  readonly #leases: Leases
  readonly #purge: Purge

  constructor(client: DocumentClient, options: DynamoDBStorageOptions) {
    const { tables, clock, chunkPayloads: chunks } = options
    this.client = client
    this.#tables = tables
    this.#clock = clock
    this.#preparing = { create: options.createTables, warn: options.warn }
    this.#payloads = new Payloads(client, tables)
    this.#layout = new Layout(client, tables, clock)
    const events = new EventItems(tables, this.#layout, clock)
    const payloadItems = new PayloadItems(tables, clock)
    const addresses = new Addresses(client, tables)
    this.#keys = new Keys(client, tables, events, clock)
    const shared = { tables, events, payloadItems, addresses }
    const writing = { payloads: this.#payloads, keys: this.#keys, held: this.#held, chunks, clock }
    this.#writer = new OutcomeWriter(client, { ...shared, ...writing })
    this.#collecting = new Collecting(client, { ...shared, writer: this.#writer })
    this.#behind = new Behind(client, tables, this.#keys, clock)
    this.#due = new Due(client, tables, this.#layout, addresses)
    this.#closed = new Closed(client, tables, this.#layout)
    this.#oldEvents = new OldEvents(client, { tables, layout: this.#layout, events, addresses })
    this.#leases = new Leases(client, tables, this.#due)
    this.#purge = new Purge(client, tables, this.#closed)
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
    await mapped(this.#oldEvents.move())
  }

  async transaction<R>(work: (tx: DynamoDBTransaction) => Promise<R>): Promise<R> {
    const tx = this.#collecting.begin()
    try {
      const result = await work(tx)
      // What comes now is too late to be sent.
      tx.end()
      await mapped(this.#commit(tx))
      this.#due.quiet.forget()
      return result
    } finally {
      tx.end()
    }
  }

  async enlist<R>(tx: DynamoDBTransaction, work: (tx: DynamoDBTransaction) => Promise<R>): Promise<R> {
    assertOpen(tx)
    // Whoever sends it is not us.
    await mapped(this.#layout.announce())
    this.#collecting.attach(tx)
    this.#due.quiet.forget()
    return work(tx)
  }

  nested<R>(tx: DynamoDBTransaction, work: () => Promise<R>): Promise<R> {
    return this.#collecting.nested(tx, work)
  }

  async write(outcomes: readonly Outcome[], tx?: DynamoDBTransaction): Promise<readonly OutcomeResult[]> {
    if (tx) return mapped(this.#collecting.add(outcomes, tx))
    return mapped(this.#write(outcomes)).finally(() => this.#due.quiet.written(outcomes))
  }

  async lease(request: LeaseRequest): Promise<readonly LeasedEvent[]> {
    await mapped(this.#layout.agree())
    const now = this.#clock.now()
    const until = moment(now + request.leaseMs)
    const leased = await mapped(this.#leases.take(now, request, until))
    for (const event of leased) this.#held.note(event)
    const behind = await this.#behindOf(leased, request)
    return leased.map((event) => {
      const next = behind.get(event.id) ?? []
      const told = next.length > 0 && { behind: next.map(storedEvent) }
      return { ...storedEvent(event), leasedAt: now, ...told }
    })
  }

  async waiting(): Promise<readonly Waiting[]> {
    await mapped(this.#layout.agree())
    return mapped(this.#due.waiting(this.#clock.now()))
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
    await mapped(this.#oldEvents.move())
    const now = this.#clock.now()
    return {
      events: await mapped(this.#purge.events(now, limit)),
      // DynamoDB deletes them by itself; to find them is to read the whole table.
      payloads: background ? 0 : await mapped(this.#purge.payloads(now, limit)),
    }
  }

  async listDead(query: DeadQuery): Promise<DeadPage> {
    const { events, next } = await mapped(this.#closed.dead(query))
    const behind = await mapped(this.#keys.behind(events))
    const letters = events.map((event) => ({
      ...storedEvent(event),
      error: event.error ?? '',
      diedAt: event.closed_at ?? 0,
      waitingBehind: behind.get(event.id) ?? 0,
    }))
    return { events: letters, ...(next !== undefined && { next }) }
  }

  async stats(): Promise<StorageStats> {
    await mapped(this.#layout.refresh())
    const open = await mapped(this.#due.stats(this.#clock.now()))
    return { ...open, dead: await mapped(this.#closed.countDead()) }
  }

  async close(): Promise<void> {}

  /** What can't be read is not told of: the leases are ours, and to lose them would cost an attempt each. */
  async #behindOf(leased: readonly EventItem[], request: LeaseRequest) {
    try {
      return await this.#behind.of(leased, request)
    } catch {
      return new Map<string, readonly EventItem[]>()
    }
  }

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
