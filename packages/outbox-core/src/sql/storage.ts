import { TransactionClosedError } from '../errors.ts'
import type {
  DeadPage,
  DeadQuery,
  Lease,
  LeasedEvent,
  Outcome,
  OutcomeResult,
  Purged,
  Storage,
  StorageLimits,
  StorageStats,
} from '../storage.ts'
import { isFingerprinted } from './append.ts'
import { postgresError, postgresWriteError } from './errors.ts'
import type { PostgresExecutor, PostgresListener } from './executor.ts'
import { listenOn } from './listen.ts'
import { migratePostgres, type PostgresTableOptions, type PostgresTables, postgresTables } from './schema.ts'
import {
  announceStatement,
  deadStatement,
  extendStatement,
  fingerprintStatement,
  leaseStatement,
  payloadStatement,
  purgeStatement,
  type Statement,
  statsStatement,
} from './statements.ts'
import { TransactionAttempt, untilUndisturbed } from './transaction.ts'
import { writeStatement } from './write.ts'

export interface PostgresStorageOptions extends PostgresTableOptions {
  /**
   * A connected client of your own that may LISTEN, so that events of other processes are handled at once instead of at
   * the next poll. It stays yours: to reconnect and to close.
   */
  readonly listener?: PostgresListener
  /**
   * Tells the listeners of other processes after a commit, at most once a millisecond: one NOTIFY.
   * @default whether there is a `listener`
   */
  readonly notify?: boolean
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

// A value may have 1 GB, but drivers read bytea as hex text, several copies of it, and V8's strings end at 512 MiB.
const LIMIT_BYTES = 64 * 1024 * 1024

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** Postgres, through whichever client the executor speaks to. */
export class PostgresStorage<Tx, TxOptions> implements Storage<Tx, TxOptions> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly writesTogether = true
  readonly #executor: PostgresExecutor<Tx, TxOptions>
  readonly #options: PostgresStorageOptions
  readonly #tables: PostgresTables
  readonly #failures = new WeakMap<object, Error>()
  readonly #ended = new WeakSet<object>()
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>
  readonly announce?: () => Promise<void>

  /** @throws ConfigurationError naming the option and its value */
  constructor(executor: PostgresExecutor<Tx, TxOptions>, options: PostgresStorageOptions = {}) {
    this.#executor = executor
    this.#options = options
    this.#tables = postgresTables(options)
    const { listener, notify = listener !== undefined } = options
    if (listener) this.listen = (wake) => listenOn(listener, this.#tables.channel, wake).catch(rethrow)
    if (notify) this.announce = async () => void (await this.#run(announceStatement(this.#tables)))
  }

  async initialize(): Promise<void> {
    await migratePostgres(this.#executor, this.#options).catch(rethrow)
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R> {
    return untilUndisturbed(() => {
      const attempt = new TransactionAttempt(async (tx: Tx) => {
        const result = await work(tx)
        await this.#assertUsable(tx)
        return result
      }, this.#ended)
      return attempt.through((callback) => this.#executor.transaction(callback, options))
    })
  }

  async enlist<R>(tx: Tx, work: (tx: Tx) => Promise<R>): Promise<R> {
    this.#executor.assertTransaction(tx)
    return work(tx)
  }

  async write(
    outcomes: readonly Outcome[],
    tx?: Tx,
    { announce = false }: { readonly announce?: boolean } = {},
  ): Promise<readonly OutcomeResult[]> {
    if (tx) this.#executor.assertTransaction(tx)
    if (outcomes.length === 0) return []
    const rows = await this.#run<Written>(
      writeStatement(this.#tables, outcomes, announce),
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
    return rows.map(({ id }) => id)
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
    const query = async (): Promise<readonly Result[]> => {
      try {
        return (await this.#executor.query(text, parameters, tx)) as readonly Result[]
      } catch (error) {
        throw map(error)
      }
    }
    if (!tx) return untilUndisturbed(query)
    if (this.#ended.has(tx as object)) throw new TransactionClosedError()
    return query().catch((failure: Error) => {
      this.#failures.set(tx as object, failure)
      throw failure
    })
  }
}

function rethrow(error: unknown): never {
  throw postgresError(error)
}

function leasedEvent({ id, type, body, headers, created_at, attempt, uncounted }: Row): LeasedEvent {
  return { id, type, body, headers: JSON.parse(headers), createdAt: created_at, attempt, uncounted }
}
