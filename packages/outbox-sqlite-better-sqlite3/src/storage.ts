import {
  assertMoments,
  type DeadPage,
  type DeadQuery,
  type Lease,
  type LeasedEvent,
  type LeaseRequest,
  type Outcome,
  type OutcomeResult,
  type Purged,
  type PurgeOptions,
  type Storage,
  type StorageLimits,
  type StorageStats,
  type StoredEvent,
  type Waiting,
} from 'outbox-core'
import type { Connection } from './connection.ts'
import type { SqliteDatabase } from './database.ts'
import { dueRows } from './due.ts'
import { watchOtherConnections } from './listen.ts'
import { isMoment, wholeMs } from './moments.ts'
import { Savepoints } from './savepoints.ts'
import { migrate, type Tables } from './schema.ts'
import { changesOneRow, type DeadRow, type DueRow, type Row, Statements } from './statements.ts'
import { Writer } from './write.ts'

// SQLite's own limit is 1e9 bytes for a row; beyond this the memory for copies is the sooner end.
const LIMIT_BYTES = 256 * 1024 * 1024

// More are first asked about together: a worker that handles a hundred types has work for a few of them at a time.
const FEW_ADDRESSES = 8

export class SqliteStorage<Db extends SqliteDatabase> implements Storage<Db> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly client: object
  readonly writesTogether = true
  readonly idsAreFree = true
  readonly #connection: Connection
  readonly #tables: Tables
  readonly #statements: Statements
  readonly #writer: Writer
  readonly #savepoints: Savepoints
  readonly #watchers = new Set<() => void>()

  constructor(connection: Connection, tables: Tables) {
    this.client = connection.db
    this.#connection = connection
    this.#tables = tables
    this.#statements = new Statements(connection, tables)
    this.#writer = new Writer(this.#statements)
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
    if (tx) return this.#connection.inside(tx, () => this.#writer.write(outcomes), { several })
    if (!several) return this.#connection.statements(() => this.#writer.write(outcomes))
    return this.#connection.atomically(() => this.#writer.write(outcomes))
  }

  async lease(request: LeaseRequest): Promise<readonly LeasedEvent[]> {
    return this.#connection.statements(() => {
      const due = dueRows(
        (address, { visible_at, seq }, most) =>
          this.#statements.all<DueRow>('due', address, visible_at, seq, most),
        { ...request, addresses: this.#withDue(request.addresses) },
      )
      // Between the two, another process may have taken some, and given back: the attempt tells.
      const leased = this.#connection.together(
        due,
        ({ seq, id, attempt }) => this.#statements.run('lease', request.leaseMs, seq, id, attempt) === 1,
      )
      return due
        .filter((_, index) => leased[index])
        .map((row) => ({ ...leasedEvent(row), ...this.#behind(row, request) }))
    })
  }

  async waiting(): Promise<readonly Waiting[]> {
    return this.#connection.statements(() => this.#waiting())
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
    const events = rows.map((row) => ({
      ...storedEvent(row),
      ...{ error: row.error, diedAt: row.died_at, waitingBehind: row.waiting_behind },
    }))
    return { events, ...(last && rows.length === limit && { next: [last.died_at, String(last.seq)] }) }
  }

  async stats(tx?: Db): Promise<StorageStats> {
    return this.#read(tx, () => {
      const waiting = this.#waiting()
      const due = waiting
        .filter(({ oldestDueMs }) => oldestDueMs >= 0)
        .map(({ address }) => [address, this.#count('dueAt', address)] as const)
      const oldest = waiting.reduce((most, { oldestDueMs }) => Math.max(most, oldestDueMs), -1)
      return {
        due: due.reduce((sum, [, count]) => sum + count, 0),
        dueByAddress: Object.fromEntries(due),
        leased: waiting.reduce((sum, { address }) => sum + this.#count('leasedAt', address), 0),
        dead: this.#count('countDead'),
        blocked: this.#count('countBlocked'),
        oldestDueMs: oldest < 0 ? null : oldest,
      }
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

  /** Address by address: an index has them in their order, however many events there are of each. */
  #waiting(): readonly Waiting[] {
    const waiting: Waiting[] = []
    for (;;) {
      const next = this.#statements.get<Waiting>('address', waiting.at(-1)?.address ?? '')
      if (!next) return waiting
      waiting.push(next)
    }
  }

  /** What waits next in the key of a leased event, as far as the worker can handle it. */
  /** Those that have something due; of few each is looked at anyhow. */
  #withDue(shares: LeaseRequest['addresses']): LeaseRequest['addresses'] {
    if (shares.length <= FEW_ADDRESSES) return shares
    const addresses = JSON.stringify(shares.map(({ address }) => address))
    const due = new Set(this.#statements.column<string>('dueAmong', addresses))
    return shares.filter(({ address }) => due.has(address))
  }

  #behind({ key }: DueRow, { addresses, behind = 0 }: LeaseRequest): Pick<LeasedEvent, 'behind'> {
    if (key === null || behind === 0) return {}
    const rows = this.#statements.all<Row & { due: number }>('behind', key, behind)
    const other = rows.findIndex(
      (row) => row.due === 0 || !addresses.some(({ address }) => address === row.address),
    )
    const next = other === -1 ? rows : rows.slice(0, other)
    return next.length > 0 ? { behind: next.map(storedEvent) } : {}
  }

  #count(statement: 'dueAt' | 'leasedAt' | 'countDead' | 'countBlocked', ...parameters: unknown[]): number {
    return this.#statements.column<number>(statement, ...parameters)[0] ?? 0
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
}

function leasedEvent(row: DueRow): LeasedEvent {
  return { ...storedEvent(row), attempt: row.attempt + 1, leasedAt: row.now }
}

function storedEvent(row: Row): StoredEvent {
  const { id, type, address, key, body, headers, created_at, attempt, uncounted } = row
  return {
    ...{ id, type, address, key, body, headers: JSON.parse(headers) },
    ...{ createdAt: created_at, attempt, uncounted },
  }
}
