import { randomUUID } from 'node:crypto'
import {
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
  TransactionClosedError,
  TransactionMissingError,
  toError,
} from 'outbox-core'
import type {
  MongoClientLike,
  MongoCollection,
  MongoDatabase,
  MongoSession,
  MongoTransactionOptions,
} from './client.ts'
import { isTransientInTransaction, mongoError, mongoWriteError } from './errors.ts'
import { heldFilter, inMs } from './operations.ts'
import { type CollectionNames, createCollections, type EventDocument } from './schema.ts'
import { OutcomeWriter } from './write.ts'

const MAJORITY = { writeConcern: { w: 'majority' } } as const

// A document has at most 16 MiB; the rest of it needs room as well.
const LIMIT_BYTES = 16 * 1024 * 1024 - 64 * 1024

const DUE = { open: true, $expr: { $lte: ['$visible', '$$NOW'] } }

export class MongoStorage<Session extends MongoSession> implements Storage<Session, MongoTransactionOptions> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly #client: MongoClientLike<Session>
  readonly #db: MongoDatabase
  readonly #names: CollectionNames
  readonly #events: MongoCollection
  readonly #payloads: MongoCollection
  readonly #writer: OutcomeWriter
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>

  constructor(client: MongoClientLike<Session>, db: MongoDatabase, names: CollectionNames, watch: boolean) {
    this.#client = client
    this.#db = db
    this.#names = names
    this.#events = db.collection(names.events)
    this.#payloads = db.collection(names.payloads)
    this.#writer = new OutcomeWriter(this.#events, this.#payloads)
    if (watch) this.listen = async (wake) => this.#watch(wake)
  }

  async initialize(): Promise<void> {
    await mapped(createCollections(this.#db, this.#names))
  }

  async transaction<R>(work: (tx: Session) => Promise<R>, options?: MongoTransactionOptions): Promise<R> {
    const session = this.#client.startSession()
    let thrown: { readonly error: unknown } | undefined
    try {
      let result: R | undefined
      const run = async (): Promise<void> => {
        thrown = undefined
        try {
          result = await work(session)
        } catch (error) {
          thrown = { error }
          throw driverError(error)
        }
      }
      await session.withTransaction(run, { readConcern: { level: 'snapshot' }, ...MAJORITY, ...options })
      return result as R
    } catch (error) {
      // What the callback threw is the caller's own; the rest happened at begin or commit.
      throw thrown ? thrown.error : mongoError(error)
    } finally {
      await session.endSession()
    }
  }

  async enlist<R>(tx: Session, work: (tx: Session) => Promise<R>): Promise<R> {
    this.#assertOpen(tx)
    return work(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: Session): Promise<readonly OutcomeResult[]> {
    if (tx) {
      this.#assertOpen(tx)
      return mapped(this.#writer.write(outcomes, { session: tx }))
    }
    if (this.#writer.isOneOperation(outcomes))
      return mapped(this.#writer.write(outcomes, MAJORITY), mongoWriteError)
    return this.transaction((session) => mapped(this.#writer.write(outcomes, { session })))
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    const sorted = { projection: { _id: 1 }, sort: { visible: 1, _id: 1 }, limit }
    const due = (await mapped(this.#events.find(DUE, sorted).toArray())) as Pick<EventDocument, '_id'>[]
    if (due.length === 0) return []
    const ids = due.map(({ _id }) => _id)
    const lease = randomUUID()
    const taken = { state: 'leased', attempt: { $add: ['$attempt', 1] }, visible: inMs(leaseMs), lease }
    await mapped(this.#events.updateMany({ _id: { $in: ids }, ...DUE }, [{ $set: taken }], MAJORITY))
    const held = (await mapped(this.#events.find({ _id: { $in: ids }, lease }).toArray())) as EventDocument[]
    const byId = new Map(held.map((event) => [event._id, event]))
    return ids.flatMap((id) => {
      const event = byId.get(id)
      return event ? [leasedEvent(event)] : []
    })
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    if (leases.length === 0) return []
    const filter = heldFilter(leases, 'leased')
    const { matchedCount } = await mapped(
      this.#events.updateMany(filter, [{ $set: { visible: inMs(leaseMs) } }], MAJORITY),
    )
    if (matchedCount === leases.length) return []
    const held = (await mapped(
      this.#events.find(filter, { projection: { _id: 1 } }).toArray(),
    )) as EventDocument[]
    const kept = new Set(held.map(({ _id }) => _id))
    return leases.filter(({ id }) => !kept.has(id)).map(({ id }) => id)
  }

  async getPayload(id: string, tx?: Session): Promise<Uint8Array | undefined> {
    if (tx) this.#assertOpen(tx)
    const filter = { _id: id, $expr: { $gt: ['$expires_at', '$$NOW'] } }
    const found = await mapped(this.#payloads.find(filter, tx ? { session: tx } : {}).toArray())
    const [document] = found as { data: Uint8Array | { buffer: Uint8Array; position: number } }[]
    if (!document) return undefined
    const { data } = document
    return data instanceof Uint8Array ? data : data.buffer.subarray(0, data.position)
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
    const found = (await mapped(
      this.#events.find(filter, { sort: { died: 1, _id: 1 }, limit }).toArray(),
    )) as EventDocument[]
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
        this.#events.find(DUE, oldestFirst).toArray() as Promise<
          { late: number | bigint | { toNumber(): number } }[]
        >,
      ]),
    )
    return { due, leased, dead, oldestDueMs: oldest[0] ? Number(oldest[0].late) : null }
  }

  async close(): Promise<void> {}

  #assertOpen(session: Session): void {
    if (typeof session?.inTransaction !== 'function') {
      throw new ForeignTransactionError('this is no session; pass one that your client started')
    }
    const { client } = session as { readonly client?: unknown }
    if (client !== undefined && client !== this.#client) {
      throw new ForeignTransactionError("this session is another client's, not the outbox's")
    }
    if (session.hasEnded) throw new TransactionClosedError()
    if (!session.inTransaction()) {
      throw new TransactionMissingError(
        'the session has no transaction open; call session.startTransaction() first',
      )
    }
  }

  async #purgeFrom(
    collection: MongoCollection,
    { filter, sort }: { filter: object; sort: object },
    limit: number,
  ): Promise<number> {
    const options = { projection: { _id: 1 }, sort, limit }
    const found = (await mapped(collection.find(filter, options).toArray())) as { _id: string }[]
    if (found.length === 0) return 0
    const ids = found.map(({ _id }) => _id)
    return (await mapped(collection.deleteMany({ _id: { $in: ids }, ...filter }, MAJORITY))).deletedCount
  }

  #watch(wake: () => void): () => Promise<void> {
    const stream = this.#events.watch([{ $match: { operationType: 'insert' } }])
    stream.on('change', wake)
    // Polling goes on without it.
    stream.on('error', () => void stream.close())
    return async () => void (await stream.close())
  }
}

async function mapped<R>(work: Promise<R>, map: (error: unknown) => Error = mongoError): Promise<R> {
  try {
    return await work
  } catch (error) {
    throw map(error)
  }
}

// The driver runs a transaction again only when it sees its own error.
function driverError(error: unknown): unknown {
  const { cause } = toError(error)
  return isTransientInTransaction(cause) ? cause : error
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
