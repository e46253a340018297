import {
  type Advanced,
  type DeadPage,
  type DeadQuery,
  type Lease,
  type LeasedEvent,
  type LeaseRequest,
  type Outcome,
  type OutcomeResult,
  type Purged,
  type Storage,
  type StorageLimits,
  type StorageStats,
  TransactionClosedError,
  type Waiting,
} from 'outbox-core'
import { Advancing } from './advance.ts'
import {
  findAll,
  type MongoClientLike,
  type MongoCollection,
  type MongoDatabase,
  type MongoSession,
  type MongoTransactionOptions,
} from './client.ts'
import { mapped, mongoWriteError } from './errors.ts'
import { Keys } from './keys.ts'
import { Leases } from './lease.ts'
import { OpenWatch } from './listen.ts'
import { heldFilter, inMs } from './operations.ts'
import { listDead, stats, stored, waiting } from './reading.ts'
import {
  BY_EXPIRY,
  BY_ID,
  BY_RETENTION,
  type CollectionNames,
  createCollections,
  type EventDocument,
  keysOf,
} from './schema.ts'
import { assertMs, assertStorable, LIMIT_BYTES } from './storable.ts'
import { assertOpen, MAJORITY, transact, within } from './transaction.ts'
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

export class MongoStorage<Session extends MongoSession> implements Storage<Session, MongoTransactionOptions> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly writesTogether = true
  readonly client: MongoClientLike<Session>
  readonly #db: MongoDatabase
  readonly #names: CollectionNames
  readonly #events: MongoCollection
  readonly #payloads: MongoCollection
  readonly #leases: Leases
  readonly #writer: OutcomeWriter
  readonly #advancing: Advancing<Session>
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>

  constructor(
    client: MongoClientLike<Session>,
    database: string | undefined,
    names: CollectionNames,
    watch: boolean,
  ) {
    this.client = client
    this.#db = client.db(database, OUR_WAY)
    this.#names = names
    this.#events = this.#db.collection(names.events)
    this.#payloads = this.#db.collection(names.payloads)
    const keys = new Keys(this.#events, this.#db.collection(keysOf(names)))
    this.#leases = new Leases(this.#events, keys)
    this.#writer = new OutcomeWriter(this.#events, this.#payloads, keys)
    this.#advancing = new Advancing(client, keys)
    if (watch) this.listen = (wake) => this.#watch(wake)
  }

  async initialize(): Promise<void> {
    await mapped(createCollections(this.#db, this.#names))
  }

  async transaction<R>(work: (tx: Session) => Promise<R>, options?: MongoTransactionOptions): Promise<R> {
    return transact(
      this.client,
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
    assertOpen(tx, this.client)
    return work(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: Session): Promise<readonly OutcomeResult[]> {
    assertStorable(outcomes)
    if (tx) {
      assertOpen(tx, this.client)
      return mapped(this.#writer.write(outcomes, within(tx)))
    }
    if (outcomes.length === 0) return []
    // The driver always repeats a commit whose answer was lost; one operation only where it was not told otherwise.
    const repeats = this.client.options?.retryWrites !== false
    if (repeats && this.#writer.isOneOperation(outcomes)) {
      return (await mapped(this.#writer.writeHeld(outcomes, MAJORITY), mongoWriteError)) ?? []
    }
    const results = await transact(this.client, async (session) => {
      const held = await mapped(this.#writer.writeHeld(outcomes, within(session)))
      if (!held) await mapped(session.abortTransaction())
      return held
    })
    return (
      results ?? transact(this.client, (session) => mapped(this.#writer.write(outcomes, within(session))))
    )
  }

  async lease(request: LeaseRequest): Promise<readonly LeasedEvent[]> {
    const { leaseMs } = request
    assertMs(leaseMs)
    const taken = await mapped(this.#leases.take(request))
    const behind = await this.#leases.behind(taken, request)
    return taken.map((event) => {
      const next = behind.get(event.key) ?? []
      return {
        ...stored(event),
        // The server's own time of the lease, without asking for it.
        leasedAt: event.visible.getTime() - leaseMs,
        ...(next.length > 0 && { behind: next.map(stored) }),
      }
    })
  }

  async waiting(): Promise<readonly Waiting[]> {
    return waiting(this.#events)
  }

  async advance(keys?: readonly string[]): Promise<Advanced> {
    return keys ? this.#advancing.advance(keys) : this.#advancing.walk()
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    if (leases.length === 0) return []
    assertMs(leaseMs)
    const filter = heldFilter(leases, 'leased')
    const { matchedCount } = await mapped(
      this.#events.updateMany(filter, [{ $set: { visible: inMs(leaseMs) } }], { ...MAJORITY, ...BY_ID }),
    )
    if (matchedCount === leases.length) return []
    const held = await mapped(
      findAll<EventDocument>(this.#events, filter, leases.length, { ...BY_ID, projection: { _id: 1 } }),
    )
    const kept = new Set(held.map(({ _id }) => _id))
    return leases.filter(({ id }) => !kept.has(id)).map(({ id }) => id)
  }

  async keep(id: string, keepMs: number): Promise<void> {
    assertMs(keepMs)
    const visible = [{ $set: { visible: inMs(keepMs) } }]
    const options = { ...MAJORITY, ...BY_ID }
    await mapped(this.#events.updateOne({ _id: id, state: 'done' }, visible, options), mongoWriteError)
  }

  async getPayload(id: string, tx?: Session): Promise<Uint8Array | undefined> {
    const filter = { _id: id, $expr: { $gt: ['$expires_at', '$$NOW'] } }
    const options = { ...this.#inside(tx), ...BY_ID }
    const [found] = await mapped(findAll<{ data: Uint8Array }>(this.#payloads, filter, 1, options))
    return found?.data
  }

  async purge(limit: number): Promise<Purged> {
    const past = (field: string): object => ({ $lte: [field, '$$NOW'] })
    const done = { filter: { state: 'done', $expr: past('$visible') }, sort: { visible: 1 }, ...BY_RETENTION }
    const expired = { filter: { $expr: past('$expires_at') }, sort: { expires_at: 1 }, ...BY_EXPIRY }
    return {
      events: await this.#purgeFrom(this.#events, done, limit),
      payloads: await this.#purgeFrom(this.#payloads, expired, limit),
    }
  }

  async listDead(query: DeadQuery, tx?: Session): Promise<DeadPage> {
    return listDead(this.#events, query, this.#inside(tx))
  }

  async stats(tx?: Session): Promise<StorageStats> {
    return stats(this.#events, this.#inside(tx))
  }

  async close(): Promise<void> {}

  async #watch(wake: () => void): Promise<() => Promise<void>> {
    const watch = new OpenWatch(this.client, this.#db, this.#names.events, wake)
    await mapped(watch.start())
    return () => watch.end()
  }

  /** What makes an operation part of a transaction, if there is one. */
  #inside(tx: Session | undefined): object {
    if (!tx) return {}
    assertOpen(tx, this.client)
    return within(tx)
  }

  async #purgeFrom(
    collection: MongoCollection,
    { filter, sort, hint }: { filter: object; sort: object; hint: string },
    limit: number,
  ): Promise<number> {
    const options = { projection: { _id: 1 }, sort, hint, limit }
    const found = await mapped(findAll<{ _id: string }>(collection, filter, limit, options))
    if (found.length === 0) return 0
    const ids = found.map(({ _id }) => _id)
    const deleting = collection.deleteMany({ _id: { $in: ids }, ...filter }, { ...MAJORITY, ...BY_ID })
    return (await mapped(deleting)).deletedCount
  }
}
