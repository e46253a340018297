import { assertMoments } from '../moments.ts'
import type {
  Advanced,
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
} from '../storage.ts'
import { isFingerprinted } from './append.ts'
import { postgresError, postgresStatementError, postgresWriteError } from './errors.ts'
import type { PostgresExecutor, PostgresListener } from './executor.ts'
import { advanceStatement } from './keys.ts'
import { listenOn } from './listen.ts'
import { migratePostgres } from './migrate.ts'
import {
  type BehindRow,
  milliseconds,
  numbersOf,
  type Row,
  runsBehind,
  storedEvent,
  type Whole,
  type Written,
} from './rows.ts'
import { StatementRunner } from './runner.ts'
import { type PostgresTableOptions, type PostgresTables, postgresTables } from './schema.ts'
import {
  announceStatement,
  behindStatement,
  deadStatement,
  extendStatement,
  fingerprintStatement,
  keepStatement,
  leaseStatement,
  payloadStatement,
  purgeStatement,
  type Statement,
  statsStatement,
  waitingStatement,
} from './statements.ts'
import { writeStatement } from './write.ts'

export interface PostgresStorageOptions extends PostgresTableOptions {
  /**
   * Who may LISTEN, so that events of other processes are handled at once instead of at the next poll: a function that
   * makes a client, `() => new pg.Client(url)`, which is called again whenever the connection has ended; or a connected
   * client of your own, which stays yours to close. A node-postgres `Client` of your own is deaf once its connection has
   * ended: the log says so, and polling goes on.
   */
  readonly listener?: PostgresListener
  /**
   * Tells the listeners of other processes after a commit, at most once a millisecond: one NOTIFY.
   * @default whether there is a `listener`
   */
  readonly notify?: boolean
}

// A value may have 1 GB, but drivers read bytea as hex text, several copies of it, and V8's strings end at 512 MiB.
const LIMIT_BYTES = 64 * 1024 * 1024

// Of keys, in one statement of the net: as many look-ups by index.
const KEYS_AT_ONCE = 1_000

const APPLIED: OutcomeResult = { status: 'applied' }
const UNSURE: OutcomeResult = { status: 'applied', unsure: true }
const LOST: OutcomeResult = { status: 'lost' }

/** Postgres, through whichever client the executor speaks to. */
export class PostgresStorage<Tx, TxOptions> implements Storage<Tx, TxOptions> {
  readonly limits: StorageLimits = { eventBytes: LIMIT_BYTES, payloadBytes: LIMIT_BYTES }
  readonly client: object
  readonly writesTogether = true
  readonly #executor: PostgresExecutor<Tx, TxOptions>
  readonly #tables: PostgresTables
  readonly #runner: StatementRunner<Tx, TxOptions>
  readonly listen?: (wake: () => void, lost?: (error: Error) => void) => Promise<() => Promise<void>>
  readonly announce?: () => Promise<void>
  /** Where the net has come to. */
  #sweptTo = ''

  /** @throws ConfigurationError naming the option and its value */
  constructor(executor: PostgresExecutor<Tx, TxOptions>, options: PostgresStorageOptions = {}) {
    this.client = executor.client
    this.#executor = executor
    this.#runner = new StatementRunner(executor)
    this.#tables = postgresTables(options)
    const { listener, notify = listener !== undefined } = options
    if (listener) {
      this.listen = (wake, lost = () => {}) =>
        listenOn(listener, this.#tables.channel, { wake, lost }).catch(rethrow)
    }
    if (notify) this.announce = async () => void (await this.#runner.run(announceStatement(this.#tables)))
  }

  async initialize(): Promise<void> {
    await migratePostgres(this.#executor, this.#tables).catch(rethrow)
  }

  async transaction<R>(work: (tx: Tx) => Promise<R>, options?: TxOptions): Promise<R> {
    return this.#runner.transaction(work, options)
  }

  async enlist<R>(tx: Tx, work: (tx: Tx) => Promise<R>): Promise<R> {
    this.#executor.assertTransaction(tx)
    return work(tx)
  }

  async nested<R>(tx: Tx, work: () => Promise<R>): Promise<R> {
    return this.#runner.nested(tx, work)
  }

  async write(
    outcomes: readonly Outcome[],
    tx?: Tx,
    { announce = false }: { readonly announce?: boolean } = {},
  ): Promise<readonly OutcomeResult[]> {
    if (outcomes.length === 0) return []
    assertMoments(outcomes)
    const rows = await this.#runner.run<Written>(
      this.#statementOf(outcomes, announce),
      tx,
      tx ? postgresError : postgresWriteError,
    )
    const settled = numbersOf(rows)
    const unsure = numbersOf(rows.filter(({ unsure = 0 }) => Number(unsure) === 1))
    const appended = new Set(rows.map((row) => row.appended))
    const results = outcomes.map(({ settle }, n) => {
      if (settle && !settled.has(n)) return LOST
      return unsure.has(n) ? UNSURE : APPLIED
    })
    return this.#duplicates(outcomes, results, appended, tx)
  }

  async lease(request: LeaseRequest): Promise<readonly LeasedEvent[]> {
    const rows = await this.#runner.run<Row & { leased: string }>(leaseStatement(this.#tables, request))
    const leased = rows.map((row) => ({ ...storedEvent(row), leasedAt: milliseconds(row.leased) }))
    const ids = leased.flatMap(({ id, key }) => (key === null ? [] : [id]))
    const { behind = 0, addresses } = request
    return ids.length > 0 && behind > 0 ? this.#withThoseBehind(leased, ids, behind, addresses) : leased
  }

  async waiting(): Promise<readonly Waiting[]> {
    const rows = await this.#runner.run<{ address: string; due: string }>(waitingStatement(this.#tables))
    return rows.map(({ address, due }) => ({ address, oldestDueMs: milliseconds(due) }))
  }

  async advance(keys?: readonly string[]): Promise<Advanced> {
    const which = keys ? { keys } : { after: this.#sweptTo, limit: KEYS_AT_ONCE }
    const [row] = await this.#runner.run<{ events: Whole; looked: Whole; last: string | null; busy: string }>(
      advanceStatement(this.#tables, which),
    )
    if (!row) throw new Error('a query without FROM has one row')
    if (!keys) this.#sweptTo = Number(row.looked) < KEYS_AT_ONCE ? '' : (row.last ?? '')
    return { events: Number(row.events), busy: JSON.parse(row.busy) }
  }

  async extend(leases: readonly Lease[], leaseMs: number): Promise<readonly string[]> {
    const held = leases.map(({ id, attempt }) => ({ id, attempt }))
    const rows = await this.#runner.run<{ id: string }>(extendStatement(this.#tables, held, leaseMs))
    return rows.map(({ id }) => id)
  }

  async keep(id: string, keepMs: number): Promise<void> {
    await this.#runner.run(keepStatement(this.#tables, id, keepMs))
  }

  async getPayload(id: string, tx?: Tx): Promise<Uint8Array | undefined> {
    const [row] = await this.#runner.run<{ data: string }>(payloadStatement(this.#tables, id), tx)
    return row && Buffer.from(row.data, 'base64')
  }

  async purge(limit: number, { bytes = Number.MAX_SAFE_INTEGER }: PurgeOptions = {}): Promise<Purged> {
    const statement = purgeStatement(this.#tables, limit, bytes)
    const [row] = await this.#runner.run<Record<'events' | 'payloads' | 'spared', Whole>>(statement)
    const { events = 0, payloads = 0, spared = 0 } = row ?? {}
    return { events: Number(events), payloads: Number(payloads), ...(Number(spared) > 0 && { more: true }) }
  }

  async listDead({ limit, ids, type, after }: DeadQuery, tx?: Tx): Promise<DeadPage> {
    const [diedAt, seq] = after ?? [0, '0']
    const statement = deadStatement(this.#tables, { limit, ids, type, diedAt, seq })
    const rows = await this.#runner.run<Row & { error: string; died: string; seq: string; behind: Whole }>(
      statement,
      tx,
    )
    const last = rows.at(-1)
    const events = rows.map((row) => ({
      ...storedEvent(row),
      error: row.error,
      diedAt: milliseconds(row.died),
      waitingBehind: Number(row.behind),
    }))
    return { events, ...(last && rows.length === limit && { next: [Number(last.died), last.seq] }) }
  }

  async stats(tx?: Tx): Promise<StorageStats> {
    const [row] = await this.#runner.run<
      Record<'due' | 'leased' | 'dead' | 'blocked', Whole> & { dueby: string; oldest: string | null }
    >(statsStatement(this.#tables), tx)
    if (!row) throw new Error('a query without FROM has one row')
    return {
      ...{ due: Number(row.due), dueByAddress: JSON.parse(row.dueby), leased: Number(row.leased) },
      ...{ dead: Number(row.dead), blocked: Number(row.blocked) },
      oldestDueMs: row.oldest === null ? null : milliseconds(row.oldest),
    }
  }

  async close(): Promise<void> {}

  /** They stay what they are: whoever has the lease holds them, and others only come after them. */
  async #withThoseBehind(
    leased: readonly LeasedEvent[],
    ids: readonly string[],
    most: number,
    addresses: LeaseRequest['addresses'],
  ): Promise<readonly LeasedEvent[]> {
    const rows = await this.#runner.run<BehindRow>(behindStatement(this.#tables, ids, most))
    const behind = runsBehind(rows, addresses)
    return leased.map((event) => {
      const run = behind.get(event.id)
      return run ? { ...event, behind: run } : event
    })
  }

  /** Marks outcomes whose event was there already; asks for the first ones' fingerprints. */
  async #duplicates(
    outcomes: readonly Outcome[],
    results: OutcomeResult[],
    appended: ReadonlySet<string | null | undefined>,
    tx: Tx | undefined,
  ): Promise<readonly OutcomeResult[]> {
    const duplicates = outcomes.flatMap((outcome, n) => {
      const event = results[n]?.status === 'applied' ? outcome.append.find(isFingerprinted) : undefined
      return event && !appended.has(event.id) ? [{ n, id: event.id, outcome }] : []
    })
    if (duplicates.length === 0) return results
    const rows = await this.#runner.run<{ id: string; fingerprint: string | null }>(
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

  #statementOf(outcomes: readonly Outcome[], announce: boolean): Statement {
    try {
      return writeStatement(this.#tables, outcomes, announce)
    } catch (error) {
      throw postgresStatementError(error)
    }
  }
}

function rethrow(error: unknown): never {
  throw postgresError(error)
}
