import {
  assertMoments,
  type DeadPage,
  type DeadQuery,
  type Lease,
  type LeasedEvent,
  type NewEvent,
  type Outcome,
  type OutcomeResult,
  type Purged,
  type PurgeOptions,
  type Storage,
  StorageError,
  type StorageLimits,
  type StorageStats,
  type StoredEvent,
} from 'outbox-core'
import type { Connection } from './connection.ts'
import type { SqliteDatabase } from './database.ts'
import { watchOtherConnections } from './listen.ts'
import { isMoment, whenParameters, wholeMs } from './moments.ts'
import { Savepoints } from './savepoints.ts'
import { migrate, type Tables } from './schema.ts'
import {
  changesOneRow,
  characters,
  type DeadRow,
  eventParameters,
  holding,
  JSON_AT_MOST,
  type LeasedRow,
  type Row,
  Statements,
  settling,
} from './statements.ts'

// SQLite's own limit is 1e9 bytes for a row; beyond this the memory for copies is the sooner end.
const LIMIT_BYTES = 256 * 1024 * 1024

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

export class SqliteStorage<Db extends SqliteDatabase> implements Storage<Db> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly client: object
  readonly writesTogether = true
  readonly idsAreFree = true
  readonly #connection: Connection
  readonly #tables: Tables
  readonly #statements: Statements
  readonly #savepoints: Savepoints
  readonly #watchers = new Set<() => void>()

  constructor(connection: Connection, tables: Tables) {
    this.client = connection.db
    this.#connection = connection
    this.#tables = tables
    this.#statements = new Statements(connection, tables)
    this.#savepoints = new Savepoints(connection)
  }

  initialize(): Promise<void> {
    return migrate(this.#connection, this.#tables)
  }

  transaction<R>(work: (tx: Db) => Promise<R>): Promise<R> {
    return this.#connection.transaction((tx) => work(tx as Db))
  }

  async enlist<R>(tx: Db, work: (tx: Db) => Promise<R>): Promise<R> {
    return this.#connection.enlist(tx, (handle) => work(handle as Db))
  }

  nested<R>(tx: Db, work: () => Promise<R>): Promise<R> {
    return this.#savepoints.nested(tx, work)
  }

  assertOutside(): void {
    this.#connection.assertOutside()
  }

  mark(tx: Db): () => void {
    return this.#savepoints.mark(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: Db): Promise<readonly OutcomeResult[]> {
    assertMoments(outcomes, isMoment)
    const several = !changesOneRow(outcomes)
    if (tx) return this.#connection.inside(tx, () => this.#apply(outcomes), { several })
    if (!several) return this.#connection.statements(() => this.#apply(outcomes))
    return this.#connection.atomically(() => this.#apply(outcomes))
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    return this.#connection.statements(() => {
      const due = this.#statements.all<LeasedRow>('due', limit)
      // Between the two, another process may have taken some, and given back: the attempt tells.
      const leased = this.#connection.together(
        due,
        ({ id, attempt }) => this.#statements.run('lease', leaseMs, id, attempt) === 1,
      )
      return due.filter((_, index) => leased[index]).map(leasedEvent)
    })
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const extend = ({ id, attempt }: Lease): boolean =>
      this.#statements.run('extend', leaseMs, id, attempt) === 1
    // Leases would run out behind a queue of slow transactions.
    const kept = await this.#connection.statements(() => this.#connection.together(leases, extend), {
      urgent: true,
    })
    return leases.filter((_, index) => !kept[index]).map(({ id }) => id)
  }

  async keep(id: string, keepMs: number): Promise<void> {
    await this.#connection.statements(() => this.#statements.run('keep', wholeMs(keepMs), id))
  }

  async getPayload(id: string, tx?: Db): Promise<Uint8Array | undefined> {
    const row = await this.#read<{ data: Uint8Array } | undefined>(tx, () => this.#statements.get('get', id))
    return row?.data
  }

  async purge(limit: number, { bytes = Number.MAX_SAFE_INTEGER }: PurgeOptions = {}): Promise<Purged> {
    const events = await this.#connection.statements(() =>
      this.#purge('purgeEvent', this.#statements.column('finished', limit)),
    )
    return this.#connection.statements(() => {
      const expired = this.#statements.all<{ id: string; bytes: number }>('expired', limit)
      let left = bytes
      const within = expired.filter((payload) => {
        const fits = left > 0
        left -= payload.bytes
        return fits
      })
      const payloads = this.#purge(
        'purgePayload',
        within.map(({ id }) => id),
      )
      return { events, payloads, ...(within.length < expired.length && { more: true }) }
    })
  }

  async listDead({ limit, ids, type, after = [-1, '-1'] }: DeadQuery, tx?: Db): Promise<DeadPage> {
    const [diedAfter, seqAfter] = after
    const range = [diedAfter, Number(seqAfter), type ?? null]
    const rows = await this.#read(tx, () =>
      ids ? this.#deadById(ids, range, limit) : this.#statements.all<DeadRow>('dead', ...range, limit),
    )
    const last = rows.at(-1)
    const events = rows.map((row) => ({ ...storedEvent(row), error: row.error, diedAt: row.died_at }))
    return { events, ...(last && rows.length === limit && { next: [last.died_at, String(last.seq)] }) }
  }

  async stats(tx?: Db): Promise<StorageStats> {
    return this.#read(tx, () => {
      const { due = 0, oldest = null } =
        this.#statements.get<{ due: number; oldest: number | null }>('due_stats') ?? {}
      const { leased = 0 } = this.#statements.get<{ leased: number }>('leased_stats') ?? {}
      const { dead = 0 } = this.#statements.get<{ dead: number }>('dead_stats') ?? {}
      return { due, leased, dead, oldestDueMs: oldest }
    })
  }

  async listen(wake: () => void): Promise<() => Promise<void>> {
    const stop = watchOtherConnections(this.#connection, wake)
    this.#watchers.add(stop)
    return async () => {
      this.#watchers.delete(stop)
      stop()
    }
  }

  async close(): Promise<void> {
    for (const stop of this.#watchers) stop()
    this.#watchers.clear()
  }

  /** In a transaction at once: waiting for its turn, it would wait for itself. */
  #read<R>(tx: Db | undefined, read: () => R): R | Promise<R> {
    return tx ? this.#connection.inside(tx, read) : this.#connection.statements(read)
  }

  #purge(purge: 'purgeEvent' | 'purgePayload', found: readonly unknown[]): number {
    const purged = this.#connection.together(found, (key) => this.#statements.run(purge, key))
    return purged.reduce((sum, changes) => sum + changes, 0)
  }

  #deadById(ids: readonly string[], range: readonly unknown[], limit: number): DeadRow[] {
    return [...new Set(ids)]
      .flatMap((id) => this.#statements.get<DeadRow>('deadById', id, ...range) ?? [])
      .sort((one, other) => one.died_at - other.died_at || one.seq - other.seq)
      .slice(0, limit)
  }

  #apply(outcomes: readonly Outcome[]): OutcomeResult[] {
    const results = outcomes.map((outcome) => this.#settle(outcome))
    this.#append(outcomes, results)
    const applied = outcomes.filter((_, index) => results[index] === APPLIED)
    for (const { remove } of applied) for (const id of remove) this.#statements.run('delete', id)
    for (const { put } of applied) {
      for (const { id, data, expires } of put)
        this.#statements.run('put', id, data, ...whenParameters(expires))
    }
    return results
  }

  #settle({ settle, append }: Outcome): OutcomeResult {
    if (!settle) return APPLIED
    const duplicate = this.#duplicate(append)
    if (duplicate) return this.#statements.get(...holding(settle)) ? duplicate : LOST
    return this.#statements.run(...settling(settle)) === 1 ? APPLIED : LOST
  }

  /** Appends what survived settling; an event whose id is taken turns its outcome into a duplicate. */
  #append(outcomes: readonly Outcome[], results: OutcomeResult[]): void {
    const events: NewEvent[] = []
    for (const [index, { append }] of outcomes.entries())
      if (results[index] === APPLIED) events.push(...append)
    const inserted = this.#insert(events)
    if (inserted === 'all') return
    for (const [index, { append }] of outcomes.entries()) {
      if (results[index] !== APPLIED) continue
      for (const event of append) {
        if (!inserted.has(event.id)) results[index] = this.#duplicate([event]) ?? this.#there(event)
      }
    }
  }

  /** What an event that was not inserted has to be: there already, with an id that nobody chose. */
  #there(event: NewEvent): OutcomeResult {
    if (this.#statements.get('fingerprint', event.id)) return APPLIED
    // Unless another process has deleted the first one since.
    if (this.#appended(event)) return APPLIED
    throw new StorageError(
      `SQLite has not stored event "${event.id}" and says no reason; a trigger of your own with RAISE(IGNORE) on the outbox’s table does that: remove it`,
      { transient: false },
    )
  }

  #duplicate([event]: readonly NewEvent[]): OutcomeResult | undefined {
    if (!event || event.fingerprint === null) return undefined
    const first = this.#statements.get<{ fingerprint: string | null }>('fingerprint', event.id)
    return first && { status: 'duplicate', ...first }
  }

  #insert(events: readonly NewEvent[]): 'all' | Set<string> {
    const inserted =
      events.length > 1 && characters(events) <= JSON_AT_MOST
        ? new Set(this.#statements.column<string>('appendMany', JSON.stringify(events.map(eventParameters))))
        : new Set(events.filter((event) => this.#appended(event)).map(({ id }) => id))
    return inserted.size === events.length ? 'all' : inserted
  }

  #appended(event: NewEvent): boolean {
    return this.#statements.run('appendOne', ...eventParameters(event)) === 1
  }
}

function leasedEvent(row: LeasedRow): LeasedEvent {
  return { ...storedEvent(row), attempt: row.attempt + 1, leasedAt: row.leased_at }
}

function storedEvent({ id, type, body, headers, created_at, attempt, uncounted }: Row): StoredEvent {
  return { id, type, body, headers: JSON.parse(headers), createdAt: created_at, attempt, uncounted }
}
