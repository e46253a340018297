import { setTimeout as sleep } from 'node:timers/promises'
import { TransactionClosedError } from '../errors.ts'
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
} from '../storage.ts'
import { isSerializationFailure, postgresError, postgresWriteError } from './errors.ts'
import type { PostgresExecutor, PostgresListener } from './executor.ts'
import { listenOn } from './listen.ts'
import { migratePostgres, type PostgresTableOptions, type PostgresTables, postgresTables } from './schema.ts'
import {
  deadStatement,
  extendStatement,
  fingerprintStatement,
  leaseStatement,
  payloadStatement,
  purgeStatement,
  type Statement,
  statsStatement,
} from './statements.ts'
import { TransactionAttempt } from './transaction.ts'
import { appendStatement, writeStatement } from './write.ts'

export interface PostgresStorageOptions extends PostgresTableOptions {
  /**
   * A connected client of your own that may LISTEN, so that events of other processes are handled at once instead of at
   * the next poll. It stays yours: to reconnect and to close.
   */
  readonly listener?: PostgresListener
}

interface Written {
  readonly settled?: number | null
  readonly appended?: string | null
}

interface Row {
  readonly id: string
  readonly type: string
  readonly body: string
  readonly headers: string
  readonly attempt: number
  readonly uncounted: number
  readonly created_at: number
}

// A value's hard limit is 1 GB; the copies that drivers make in memory are the sooner end.
const LIMIT_BYTES = 256 * 1024 * 1024

// How often a transaction is run again that lost against another one.
const MOST_RUNS = 5
const LONGEST_PAUSE_MS = 10

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** Postgres, through whichever client the executor speaks to. */
export class PostgresStorage<Tx, TxOptions> implements Storage<Tx, TxOptions> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly #executor: PostgresExecutor<Tx, TxOptions>
  readonly #options: PostgresStorageOptions
  readonly #tables: PostgresTables
  readonly #failures = new WeakMap<object, Error>()
  readonly #ended = new WeakSet<object>()
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>

  /** @throws ConfigurationError naming the option and its value */
  constructor(executor: PostgresExecutor<Tx, TxOptions>, options: PostgresStorageOptions = {}) {
    this.#executor = executor
    this.#options = options
    this.#tables = postgresTables(options)
    const { listener } = options
    if (listener) this.listen = (wake) => listenOn(listener, this.#tables.channel, wake).catch(rethrow)
  }

  async initialize(): Promise<void> {
    await migratePostgres(this.#executor, this.#options).catch(rethrow)
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R> {
    for (let run = 1; ; run++) {
      const attempt = new TransactionAttempt(async (tx: Tx) => {
        const result = await work(tx)
        await this.#assertUsable(tx)
        return result
      }, this.#ended)
      try {
        return await attempt.through((callback) => this.#executor.transaction(callback, options))
      } catch (error) {
        if (run === MOST_RUNS || !isSerializationFailure(error)) throw error
        await sleep(Math.random() * LONGEST_PAUSE_MS * run)
      }
    }
  }

  async enlist<R>(tx: Tx, work: (tx: Tx) => Promise<R>): Promise<R> {
    this.#executor.assertTransaction(tx)
    return work(tx)
  }

  async write(outcomes: readonly Outcome[], tx?: Tx): Promise<readonly OutcomeResult[]> {
    if (tx) this.#executor.assertTransaction(tx)
    const [first] = outcomes
    if (!first) return []
    const [event] = first.append
    const only = outcomes.length === 1 && event && isPlainAppend(first)
    const rows = await this.#run<Written>(
      only ? appendStatement(this.#tables, event) : writeStatement(this.#tables, outcomes),
      tx,
      tx ? postgresError : postgresWriteError,
    )
    const settled = new Set(rows.map((row) => row.settled))
    const appended = new Set(rows.map((row) => row.appended))
    const results = outcomes.map(({ settle }, n) => (!settle || settled.has(n) ? APPLIED : LOST))
    return this.#duplicates(outcomes, results, appended, tx)
  }

  async lease(limit: number, leaseMs: number): Promise<readonly LeasedEvent[]> {
    const rows = await this.#run<Row>(leaseStatement(this.#tables, limit, leaseMs))
    return rows.map(leasedEvent)
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const held = leases.map(({ id, attempt }) => ({ id, attempt }))
    const rows = await this.#run<{ id: string }>(extendStatement(this.#tables, held, leaseMs))
    const kept = new Set(rows.map(({ id }) => id))
    return leases.filter(({ id }) => !kept.has(id)).map(({ id }) => id)
  }

  async getPayload(id: string, tx?: Tx): Promise<Uint8Array | undefined> {
    const [row] = await this.#run<{ data: Uint8Array }>(payloadStatement(this.#tables, id), tx)
    return row?.data
  }

  async purge(limit: number): Promise<Purged> {
    const [row] = await this.#run<Purged>(purgeStatement(this.#tables, limit))
    return { events: row?.events ?? 0, payloads: row?.payloads ?? 0 }
  }

  async listDead({ limit, ids, type, after }: DeadQuery): Promise<DeadPage> {
    const [diedAt = '0', seq = '0'] = after?.split('-') ?? []
    const statement = deadStatement(this.#tables, { limit, ids, type, diedAt, seq })
    const rows = await this.#run<Row & { error: string; died_at: string; seq: string }>(statement)
    const last = rows.at(-1)
    const events = rows.map((row) => ({
      ...leasedEvent(row),
      error: row.error,
      diedAt: Number(row.died_at) / 1000,
    }))
    return { events, ...(last && rows.length === limit && { next: `${last.died_at}-${last.seq}` }) }
  }

  async stats(): Promise<StorageStats> {
    const [row] = await this.#run<StorageStats & { oldest: number | null }>(statsStatement(this.#tables))
    if (!row) throw new Error('a query without FROM has one row')
    return { due: row.due, leased: row.leased, dead: row.dead, oldestDueMs: row.oldest }
  }

  async announce(): Promise<void> {
    await this.#run({
      text: "SELECT 1 AS sent FROM pg_notify($1::text, '')",
      parameters: [this.#tables.channel],
    })
  }

  async close(): Promise<void> {}

  /** Marks outcomes whose event was there already; asks for the first ones' fingerprints. */
  async #duplicates(
    outcomes: readonly Outcome[],
    results: OutcomeResult[],
    appended: ReadonlySet<string | null | undefined>,
    tx: Tx | undefined,
  ): Promise<readonly OutcomeResult[]> {
    const duplicates = outcomes.flatMap((outcome, n) => {
      const event = results[n] === APPLIED ? outcome.append.find(isFingerprinted) : undefined
      return event && !appended.has(event.id) ? [{ n, id: event.id, outcome }] : []
    })
    if (duplicates.length === 0) return results
    const rows = await this.#run<{ id: string; fingerprint: string | null }>(
      fingerprintStatement(
        this.#tables,
        duplicates.map(({ id }) => id),
      ),
      tx,
    )
    const first = new Map(rows.map(({ id, fingerprint }) => [id, fingerprint]))
    // One that was deleted meanwhile left its id free.
    const freed = duplicates.filter(({ id }) => !first.has(id))
    const again = await this.write(
      freed.map(({ outcome }) => outcome),
      tx,
    )
    for (const { n, id } of duplicates)
      results[n] = { status: 'duplicate', fingerprint: first.get(id) ?? null }
    for (const [index, { n }] of freed.entries()) results[n] = again[index] ?? LOST
    return results
  }

  // A statement that failed aborts the transaction. Should the callback go on regardless, Postgres would answer COMMIT
  // with a rollback and no error.
  async #assertUsable(tx: Tx): Promise<void> {
    const failure = this.#failures.get(tx as object)
    if (!failure) return
    try {
      await this.#executor.query('SELECT 1 AS usable', [], tx)
    } catch {
      throw failure
    }
  }

  async #run<Result>(
    { text, parameters }: Statement,
    tx?: Tx,
    map: (error: unknown) => Error = postgresError,
  ): Promise<readonly Result[]> {
    if (tx && this.#ended.has(tx as object)) throw new TransactionClosedError()
    try {
      return (await this.#executor.query(text, parameters, tx)) as readonly Result[]
    } catch (error) {
      const failure = map(error)
      if (tx) this.#failures.set(tx as object, failure)
      throw failure
    }
  }
}

function rethrow(error: unknown): never {
  throw postgresError(error)
}

function isPlainAppend({ settle, append, put, remove }: Outcome): boolean {
  return !settle && append.length === 1 && put.length === 0 && remove.length === 0
}

function isFingerprinted({ fingerprint }: NewEvent): boolean {
  return fingerprint !== null
}

function leasedEvent({ id, type, body, headers, created_at, attempt, uncounted }: Row): LeasedEvent {
  return { id, type, body, headers: JSON.parse(headers), createdAt: created_at, attempt, uncounted }
}
