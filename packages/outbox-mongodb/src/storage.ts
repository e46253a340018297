import {
  type DeadPage,
  type DeadQuery,
  type Lease,
  type LeasedEvent,
  type Outcome,
  type OutcomeResult,
  type Purged,
  type Storage,
  type StorageLimits,
  type StorageStats,
  TransactionClosedError,
} from 'outbox-core'
import {
  findAll,
  type MongoClientLike,
  type MongoCollection,
  type MongoDatabase,
  type MongoSession,
  type MongoTransactionOptions,
} from './client.ts'
import { mapped, mongoWriteError } from './errors.ts'
import { DUE, leaseDue } from './lease.ts'
import { heldFilter, inMs } from './operations.ts'
import { type CollectionNames, createCollections, type EventDocument } from './schema.ts'
import { assertOpen, MAJORITY, transact, within } from './transaction.ts'
import { watchInserts } from './watch.ts'
import { OutcomeWriter } from './write.ts'

// Whatever the user's client is set to: leases and claims are read where they were written, and come out as plain values.
const OUR_WAY = {
  readPreference: 'primary',
  readConcern: { level: 'local' },
  raw: false,
  fieldsAsRaw: {},
  promoteValues: true,
  promoteLongs: true,
  promoteBuffers: true,
  useBigInt64: false,
} as const

// A document has at most 16 MiB; the rest of it needs room as well.
const LIMIT_BYTES = 16 * 1024 * 1024 - 64 * 1024

export class MongoStorage<Session extends MongoSession> implements Storage<Session, MongoTransactionOptions> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly writesTogether = true
  readonly #client: MongoClientLike<Session>
  readonly #db: MongoDatabase
  readonly #names: CollectionNames
  readonly #events: MongoCollection
  readonly #payloads: MongoCollection
  readonly #writer: OutcomeWriter
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>

  constructor(
    client: MongoClientLike<Session>,
    database: string | undefined,
    names: CollectionNames,
    watch: boolean,
  ) {
    this.#client = client
    this.#db = client.db(database, OUR_WAY)
    this.#names = names
    this.#events = this.#db.collection(names.events)
    this.#payloads = this.#db.collection(names.payloads)
    this.#writer = new OutcomeWriter(this.#events, this.#payloads)
    if (watch) this.listen = async (wake) => watchInserts(this.#events, client.options, wake)
  }

  async initialize(): Promise<void> {
    await mapped(createCollections(this.#db, this.#names))
  }

  async transaction<R>(work: (tx: Session) => Promise<R>, options?: MongoTransactionOptions): Promise<R> {
    return transact(
      this.#client,
      async (session) => {
        const result = await work(session)
        // The driver takes such an end for the wanted one, and an abort would look like a commit.
        if (!session.inTransaction())
          throw new TransactionClosedError('leave its end to outbox.transaction()')
        return result
      },
      options,
    )
  }

  async enlist<R>(tx: Session, work: (tx: Session) => Promise<R>): Promise<R> {
    assertOpen(tx, this.#client)
    return work(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: Session): Promise<readonly OutcomeResult[]> {
    if (tx) {
      assertOpen(tx, this.#client)
      return mapped(this.#writer.write(outcomes, within(tx)))
    }
    if (outcomes.length === 0) return []
    if (this.#writer.isOneOperation(outcomes)) {
      return (await mapped(this.#writer.writeHeld(outcomes, MAJORITY), mongoWriteError)) ?? []
    }
    const results = await transact(this.#client, async (session) => {
      const held = await mapped(this.#writer.writeHeld(outcomes, within(session)))
      if (!held) await mapped(session.abortTransaction())
      return held
    })
    return (
      results ?? transact(this.#client, (session) => mapped(this.#writer.write(outcomes, within(session))))
    )
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    return (await mapped(leaseDue(this.#events, limit, leaseMs))).map(leasedEvent)
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    if (leases.length === 0) return []
    const filter = heldFilter(leases, 'leased')
    const { matchedCount } = await mapped(
      this.#events.updateMany(filter, [{ $set: { visible: inMs(leaseMs) } }], MAJORITY),
    )
    if (matchedCount === leases.length) return []
    const held = await mapped(
      findAll<EventDocument>(this.#events, filter, leases.length, { projection: { _id: 1 } }),
    )
    const kept = new Set(held.map(({ _id }) => _id))
    return leases.filter(({ id }) => !kept.has(id)).map(({ id }) => id)
  }

  async getPayload(id: string, tx?: Session): Promise<Uint8Array | undefined> {
    if (tx) assertOpen(tx, this.#client)
    const filter = { _id: id, $expr: { $gt: ['$expires_at', '$$NOW'] } }
    const [found] = await mapped(
      findAll<{ data: Uint8Array }>(this.#payloads, filter, 1, tx ? within(tx) : {}),
    )
    return found?.data
  }

  async purge(limit: number): Promise<Purged> {
    const past = (field: string): object => ({ $lte: [field, '$$NOW'] })
    const done = { filter: { state: 'done', $expr: past('$visible') }, sort: { visible: 1 } }
    const expired = { filter: { $expr: past('$expires_at') }, sort: { expires_at: 1 } }
    return {
      events: await this.#purgeFrom(this.#events, done, limit),
      payloads: await this.#purgeFrom(this.#payloads, expired, limit),
    }
  }

  async listDead({ limit, ids, type, after }: DeadQuery): Promise<DeadPage> {
    const [, diedAt, id = ''] = /^(\d+)-(.*)$/s.exec(after ?? '') ?? []
    const died = new Date(Number(diedAt))
    const filter = {
      state: 'dead',
      ...(ids && { _id: { $in: ids } }),
      ...(type !== undefined && { type: { $eq: type } }),
      ...(diedAt !== undefined && { $or: [{ died: { $gt: died } }, { died, _id: { $gt: id } }] }),
    }
    const oldestFirst = { sort: { died: 1, _id: 1 }, limit }
    const found = await mapped(findAll<EventDocument>(this.#events, filter, limit, oldestFirst))
    const events = found.map((event) => ({
      ...leasedEvent(event),
      error: event.error ?? '',
      diedAt: event.died?.getTime() ?? 0,
    }))
    const last = events.at(-1)
    return { events, ...(last && events.length === limit && { next: `${last.diedAt}-${last.id}` }) }
  }

  async stats(): Promise<StorageStats> {
    const held = { open: true, state: 'leased', $expr: { $gt: ['$visible', '$$NOW'] } }
    const oldestFirst = {
      sort: { visible: 1, _id: 1 },
      limit: 1,
      projection: { late: { $subtract: ['$$NOW', '$visible'] } },
    }
    const [due, leased, dead, oldest] = await mapped(
      Promise.all([
        this.#events.countDocuments(DUE),
        this.#events.countDocuments(held),
        this.#events.countDocuments({ state: 'dead' }),
        findAll<{ late: number }>(this.#events, DUE, 1, oldestFirst),
      ]),
    )
    return { due, leased, dead, oldestDueMs: oldest[0]?.late ?? null }
  }

  async close(): Promise<void> {}

  async #purgeFrom(
    collection: MongoCollection,
    { filter, sort }: { filter: object; sort: object },
    limit: number,
  ): Promise<number> {
    const options = { projection: { _id: 1 }, sort, limit }
    const found = await mapped(findAll<{ _id: string }>(collection, filter, limit, options))
    if (found.length === 0) return 0
    const ids = found.map(({ _id }) => _id)
    return (await mapped(collection.deleteMany({ _id: { $in: ids }, ...filter }, MAJORITY))).deletedCount
  }
}

function leasedEvent({ _id, type, body, headers, created, attempt, uncounted }: EventDocument): LeasedEvent {
  return {
    id: _id,
    type,
    body,
    headers: JSON.parse(headers),
    createdAt: created.getTime(),
    attempt,
    uncounted,
  }
}
