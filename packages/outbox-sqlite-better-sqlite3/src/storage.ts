import type {
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  NewEvent,
  Outcome,
  OutcomeResult,
  Purged,
  Storage,
  StorageLimits,
  StorageStats,
  StoredEvent,
} from 'outbox-core'
import type { Connection } from './connection.ts'
import type { SqliteDatabase } from './database.ts'
import { watchOtherConnections } from './listen.ts'
import { assertMoments, whenParameters, wholeMs } from './moments.ts'
import { Savepoints } from './savepoints.ts'
import { migrate, type Tables } from './schema.ts'
import {
  characters,
  type DeadRow,
  eventParameters,
  held,
  holding,
  JSON_AT_MOST,
  type LeasedRow,
  type Row,
  Statements,
  settledKey,
  settling,
  takesOneStatement,
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
    assertMoments(outcomes)
    const several = !takesOneStatement(outcomes)
    if (tx) return this.#connection.inside(tx, () => this.#apply(outcomes), { several })
    if (!several) return this.#connection.statements(() => this.#apply(outcomes))
    return this.#connection.atomically(() => this.#apply(outcomes))
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    return this.#connection.statements(() => {
      const due = this.#statements.column<number>('due', limit)
      if (due.length === 0) return []
      const leased = new Map(
        this.#statements.all<LeasedRow>('lease', leaseMs, JSON.stringify(due)).map((row) => [row.seq, row]),
      )
      // RETURNING has no order, and between the two statements another process may have taken some.
      return due.flatMap((seq) => {
        const row = leased.get(seq)
        return row ? [{ ...storedEvent(row), leasedAt: row.leased_at }] : []
      })
    })
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const rows = JSON.stringify(leases.map(held))
    // Leases would run out behind a queue of slow transactions.
    const kept = await this.#connection.statements(() => this.#ids('extend', leaseMs, rows), { urgent: true })
    return leases.filter(({ id }) => !kept.has(id)).map(({ id }) => id)
  }

  async keep(id: string, keepMs: number): Promise<void> {
    await this.#connection.statements(() => this.#statements.run('keep', wholeMs(keepMs), id))
  }

  async getPayload(id: string, tx?: Db): Promise<Uint8Array | undefined> {
    const row = await this.#read<{ data: Uint8Array } | undefined>(tx, () => this.#statements.get('get', id))
    return row?.data
  }

  async purge(limit: number): Promise<Purged> {
    const events = await this.#connection.statements(() => this.#statements.run('purgeEvents', limit))
    const payloads = await this.#connection.statements(() => this.#statements.run('purgePayloads', limit))
    return { events, payloads }
  }

  async listDead({ limit, ids, type, after = [-1, '-1'] }: DeadQuery, tx?: Db): Promise<DeadPage> {
    const [diedAfter, seqAfter] = after
    const range = [diedAfter, Number(seqAfter), type ?? null, limit]
    const rows = await this.#read(tx, () =>
      ids
        ? this.#statements.all<DeadRow>('deadById', JSON.stringify(ids), ...range)
        : this.#statements.all<DeadRow>('dead', ...range),
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

  #apply(outcomes: readonly Outcome[]): OutcomeResult[] {
    const results = this.#settle(outcomes)
    this.#append(outcomes, results)
    const applied = outcomes.filter((_, index) => results[index] === APPLIED)
    const removed = applied.flatMap(({ remove }) => remove)
    if (removed.length > 0) this.#statements.run('delete', JSON.stringify(removed))
    for (const { put } of applied) {
      for (const { id, data, expires } of put)
        this.#statements.run('put', id, data, ...whenParameters(expires))
    }
    return results
  }

  #settle(outcomes: readonly Outcome[]): OutcomeResult[] {
    const rows = { complete: [] as unknown[], discard: [] as unknown[], change: [] as unknown[] }
    const duplicates = new Map<number, OutcomeResult>()
    for (const [index, { settle, append }] of outcomes.entries()) {
      if (!settle) continue
      const duplicate = this.#duplicate(append)
      const [statement, row] = settling(settle)
      if (!duplicate) rows[statement].push(row)
      else if (this.#statements.get('holds', ...holding(settle))) duplicates.set(index, duplicate)
    }
    const settled = new Set([
      ...this.#settled('complete', rows.complete),
      ...this.#settled('discard', rows.discard),
      ...this.#settled('change', rows.change),
    ])
    return outcomes.map(({ settle }, index) =>
      !settle || settled.has(settledKey(settle)) ? APPLIED : (duplicates.get(index) ?? LOST),
    )
  }

  #settled(statement: 'complete' | 'discard' | 'change', rows: readonly unknown[]): readonly string[] {
    return rows.length > 0 ? this.#statements.column(statement, JSON.stringify(rows)) : []
  }

  /** Appends what survived settling; an event whose id is taken turns its outcome into a duplicate. */
  #append(outcomes: readonly Outcome[], results: OutcomeResult[]): void {
    const events: NewEvent[] = []
    for (const [index, { append }] of outcomes.entries())
      if (results[index] === APPLIED) events.push(...append)
    const inserted = this.#insert(events)
    if (inserted === 'all') return
    for (const [index, { append }] of outcomes.entries()) {
      const [event] = append
      if (!event || event.fingerprint === null || results[index] !== APPLIED || inserted.has(event.id))
        continue
      const duplicate = this.#duplicate(append)
      if (duplicate) results[index] = duplicate
      // Another process has deleted the first one since.
      else this.#insert(append)
    }
  }

  #duplicate([event]: readonly NewEvent[]): OutcomeResult | undefined {
    if (!event || event.fingerprint === null) return undefined
    const first = this.#statements.get<{ fingerprint: string | null }>('fingerprint', event.id)
    return first && { status: 'duplicate', ...first }
  }

  #insert(events: readonly NewEvent[]): 'all' | Set<string> {
    const inserted =
      events.length > 1 && characters(events) <= JSON_AT_MOST
        ? this.#ids('appendMany', JSON.stringify(events.map(eventParameters)))
        : new Set(events.filter((event) => this.#appended(event)).map(({ id }) => id))
    return inserted.size === events.length ? 'all' : inserted
  }

  #appended(event: NewEvent): boolean {
    return this.#statements.run('appendOne', ...eventParameters(event)) === 1
  }

  #ids(statement: 'extend' | 'appendMany', ...parameters: unknown[]): Set<string> {
    return new Set(this.#statements.column<string>(statement, ...parameters))
  }
}

function storedEvent({ id, type, body, headers, created_at, attempt, uncounted }: Row): StoredEvent {
  return { id, type, body, headers: JSON.parse(headers), createdAt: created_at, attempt, uncounted }
}
