import { OutboxSagaStore, type SagaStoreOptions } from './claims/saga-store.ts'
import { type Clock, systemClock } from './clock.ts'
import { DeadLetters } from './dead-letters.ts'
import { outsideTransactions } from './emitting/ambient.ts'
import { OutboxCore } from './emitting/outbox-core.ts'
import { consoleLogger, type Logger, silentLogger } from './logger.ts'
import { type Duration, wholeNumber } from './options.ts'
import type { Storage, StorageStats } from './storage.ts'

/** Options that every outbox takes beside its own. */
export interface OutboxOptions {
  /**
   * Where to log, pino-shaped; `false` for nowhere.
   * @default warnings and errors on the console
   */
  readonly logger?: Logger | false
  /**
   * Largest event, in bytes of JSON. Larger ones are refused: use a claim.
   * @default 262144, or the database's own limit where that is lower
   */
  readonly maxEventBytes?: number
  /** For tests. @default the process's clock */
  readonly clock?: Clock
}

export interface OutboxStats extends Omit<StorageStats, 'dueByAddress'> {
  /**
   * Due events that no bus of this outbox handles in this process, by type; those for one activity or named handler as
   * `type#activity` and `type#name`. Where other processes handle them, they are gone in a moment.
   */
  readonly waitingForHandler: Readonly<Record<string, number>>
}

/** What stands behind the face of an outbox; for the rooms of core only. */
export let coreOf: <Tx>(outbox: Outbox<Tx, never>) => OutboxCore<Tx>

/**
 * An outbox on the user's own database client. Each adapter is a subclass that adds nothing but its constructor.
 *
 * @typeParam Tx the database's own transaction handle
 * @typeParam TxOptions what its driver takes when it opens a transaction
 */
export abstract class Outbox<Tx = unknown, TxOptions = never> {
  /** The adapter behind this outbox. */
  readonly storage: Storage<Tx, TxOptions>
  readonly logger: Logger
  readonly clock: Clock
  readonly maxEventBytes: number
  /** Events that ran out of attempts: list, retry or discard them. */
  readonly deadLetters: DeadLetters
  readonly #core: OutboxCore<Tx, TxOptions>

  static {
    coreOf = <Of>(outbox: Outbox<Of, never>) => outbox.#core as unknown as OutboxCore<Of>
  }

  protected constructor(storage: Storage<Tx, TxOptions>, options: OutboxOptions = {}) {
    this.storage = storage
    this.logger = options.logger === false ? silentLogger : (options.logger ?? consoleLogger)
    this.clock = options.clock ?? systemClock
    const most = storage.limits.eventBytes
    this.maxEventBytes = wholeNumber(
      'maxEventBytes',
      options.maxEventBytes ?? Math.min(262_144, most),
      1,
      most,
    )
    this.#core = new OutboxCore(storage, this)
    this.deadLetters = new DeadLetters(this.#core as unknown as OutboxCore)
  }

  /**
   * Creates the tables, collections or indexes that are missing. Idempotent; safe when several processes start at
   * once.
   *
   * @throws TransactionOpenError inside a transaction
   */
  initialize(): Promise<void> {
    return this.#core.initialize()
  }

  /**
   * Runs `fn` in a transaction of the database. What `fn` writes through `tx`, and every `emit` and `store.put`
   * inside it, is committed together or not at all; a promise that `fn` forgot to await is waited for, and when it
   * fails and nobody handles that, the transaction fails with it.
   *
   * A nested call is a part of the outer transaction. When it fails and its error is caught, its writes alone are taken
   * back, where the database has savepoints (SQLite, Postgres) or writes are collected until the commit (Redis, DynamoDB,
   * in memory); on MongoDB the outer transaction then can't commit any more and throws a NestedTransactionError.
   *
   * @returns what `fn` returned, after the commit
   * @throws what `fn` threw, after the rollback; TransactionClosedError when called in the async context of a
   *   transaction that has ended; UnknownOutcomeError when the connection was lost during the commit;
   *   ForeignTransactionError inside a transaction of another outbox on the same client
   */
  transaction<R>(fn: (tx: Tx) => R | Promise<R>, options?: TxOptions): Promise<R> {
    return this.#core.transaction(fn, options)
  }

  /**
   * Runs `fn` inside a transaction that you opened and will commit or roll back yourself: every `emit` and
   * `store.put` in it becomes part of that transaction. Commit after the returned promise resolves, roll back when it
   * rejects.
   *
   * @throws ForeignTransactionError when `tx` is not a transaction of this outbox's client;
   *   TransactionMissingError when no transaction is open on it
   */
  enlist<R>(tx: Tx, fn: (tx: Tx) => R | Promise<R>): Promise<R> {
    return this.#core.enlist(tx, fn)
  }

  /**
   * Runs `fn` outside any transaction that is open around the caller: what it emits is written at once, and stays when
   * that transaction rolls back. On SQLite, where a connection has one transaction at a time, it waits for its end, so
   * do not await it inside.
   *
   * @returns what `fn` returns
   */
  detached<R>(fn: () => R): R {
    return outsideTransactions(fn)
  }

  /**
   * A saga store (claim check) in this outbox's own database, on its own client: payloads written with it commit or
   * roll back together with the events of the same transaction.
   *
   * @param ttl how long a payload lives; it is renewed with every step of its saga
   * @throws ConfigurationError
   */
  sagaStore(ttl: Duration, options?: SagaStoreOptions): OutboxSagaStore {
    return new OutboxSagaStore(this.#core as unknown as OutboxCore, ttl, options)
  }

  /** Counts of events, and how late the oldest due one is; inside a transaction, as it sees them. */
  stats(): Promise<OutboxStats> {
    return this.#core.participate(undefined, async (context) => {
      const { dueByAddress, ...counts } = await this.#core.stats(context)
      const workers = [...this.#core.workers]
      const unhandled = Object.entries(dueByAddress).filter(
        ([address]) => !workers.some((worker) => worker.handles(address)),
      )
      return { ...counts, waitingForHandler: Object.fromEntries(unhandled) }
    })
  }

  /** Lets go of what the outbox made itself; your database client stays open. */
  close(): Promise<void> {
    return this.storage.close()
  }
}
