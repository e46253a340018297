import { AsyncLocalStorage } from 'node:async_hooks'
import { PayloadLog } from './claims/payload-log.ts'
import { OutboxSagaStore, type SagaStoreOptions } from './claims/saga-store.ts'
import { type Clock, systemClock } from './clock.ts'
import { DeadLetters } from './dead-letters.ts'
import { dueInMs, isDueAtOnce } from './emitting/event.ts'
import { GroupCommit } from './emitting/group-commit.ts'
import { TransactionContext } from './emitting/transaction-context.ts'
import { Wake, type WakeListener } from './emitting/wake.ts'
import { TransactionClosedError, TransactionMissingError } from './errors.ts'
import { consoleLogger, type Logger, silentLogger } from './logger.ts'
import { type Duration, wholeNumber } from './options.ts'
import type { Outcome, OutcomeResult, Purged, Storage, StorageStats } from './storage.ts'

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
  readonly #ambient = new AsyncLocalStorage<TransactionContext<Tx> | undefined>()
  readonly #contexts = new WeakMap<object, TransactionContext<Tx>>()
  readonly #log: PayloadLog
  readonly #wake: Wake
  readonly #groupCommit: GroupCommit

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
    this.#log = new PayloadLog(this.logger)
    this.#wake = new Wake(storage, this.clock, this.logger)
    this.#groupCommit = new GroupCommit((outcomes) => this.#apply(outcomes), this.clock)
    this.deadLetters = new DeadLetters(this as unknown as Outbox)
  }

  /**
   * Creates the tables, collections or indexes that are missing. Idempotent; safe when several processes start at
   * once.
   */
  initialize(): Promise<void> {
    return this.storage.initialize()
  }

  /**
   * Runs `fn` in a transaction of the database. What `fn` writes through `tx`, and every `emit` and `store.put`
   * inside it, is committed together or not at all; a promise that `fn` forgot to await is waited for. Nested calls
   * join the outer transaction.
   *
   * @returns what `fn` returned, after the commit
   * @throws what `fn` threw, after the rollback; TransactionClosedError when called in the async context of a
   *   transaction that has ended; UnknownOutcomeError when the connection was lost during the commit
   */
  async transaction<R>(fn: (tx: Tx) => R | Promise<R>, options?: TxOptions): Promise<R> {
    const outer = this.#ambient.getStore()
    if (outer) {
      outer.assertOpen()
      return fn(outer.tx)
    }
    let context: TransactionContext<Tx> | undefined
    const result = await this.storage.transaction((tx) => {
      context = new TransactionContext(tx)
      return this.#within(context, fn)
    }, options)
    if (context?.soonestDueMs !== undefined) this.#wake.after(context.soonestDueMs, { elsewhere: true })
    return result
  }

  /**
   * Runs `fn` inside a transaction that you opened and will commit or roll back yourself: every `emit` and
   * `store.put` in it becomes part of that transaction. Commit after the returned promise resolves.
   *
   * @throws ForeignTransactionError when `tx` is not a transaction of this outbox's client;
   *   TransactionMissingError when no transaction is open on it
   */
  async enlist<R>(tx: Tx, fn: (tx: Tx) => R | Promise<R>): Promise<R> {
    const open = this.#openContext(tx)
    // Tracked: two calls side by side share one context, and the first to end must not close it under the other.
    if (open) return open.track(this.#ambient.run(open, () => this.transaction(fn)))
    return this.storage.enlist(tx, async (handle) => {
      const context = new TransactionContext(handle)
      this.#contexts.set(tx as object, context)
      try {
        return await this.#within(context, fn)
      } finally {
        // The same handle may be enlisted again for the user's next transaction.
        this.#contexts.delete(tx as object)
        if (context.soonestDueMs !== undefined) this.#wake.after(context.soonestDueMs)
      }
    })
  }

  /**
   * A saga store (claim check) in this outbox's own database, on its own client: payloads written with it commit or
   * roll back together with the events of the same transaction.
   *
   * @param ttl how long a payload lives; it is renewed with every step of its saga
   * @throws ConfigurationError
   */
  sagaStore(ttl: Duration, options?: SagaStoreOptions): OutboxSagaStore {
    return new OutboxSagaStore(this as unknown as Outbox, ttl, options)
  }

  /** Counts of due, leased and dead events, and how late the oldest due one is. */
  stats(): Promise<StorageStats> {
    return this.storage.stats()
  }

  /** Lets go of what the outbox made itself; your database client stays open. */
  close(): Promise<void> {
    return this.storage.close()
  }

  /**
   * Does `work` in the transaction it belongs to: the one of `explicit` when given, else the ambient one, else none.
   * The transaction's end waits for it and fails with it, so inside one a promise that nobody awaits is no unhandled
   * rejection. Not needed by users.
   *
   * @throws TransactionClosedError; TransactionMissingError for null
   */
  participate<R>(
    explicit: Tx | undefined,
    work: (context: TransactionContext<Tx> | undefined) => Promise<R>,
  ): Promise<R> {
    if (explicit === null) return Promise.reject(new TransactionMissingError('the transaction given is null'))
    const context = this.#contextOf(explicit)
    if (context?.open === false) return Promise.reject(new TransactionClosedError())
    const result = work(context)
    return context ? context.track(result) : result
  }

  /** The one write of core: applies outcomes in `context`, or in a transaction of their own. Not needed by users. */
  async write(
    outcomes: readonly Outcome[],
    context?: TransactionContext<Tx>,
  ): Promise<readonly OutcomeResult[]> {
    const only = outcomes.length === 1 ? outcomes[0] : undefined
    const mayShare = only && !only.settle && !context && this.storage.writesTogether
    return mayShare ? [await this.#groupCommit.write(only)] : this.#apply(outcomes, context)
  }

  /** Reads a payload's bytes as stored. Not needed by users: see `sagaStore().get`. */
  readPayload(
    id: string,
    context: TransactionContext<Tx> | undefined,
    routingSlipId?: string,
  ): Promise<Uint8Array | undefined> {
    return this.#log.read({ routingSlipId, claimId: id }, () =>
      context ? context.run(() => this.storage.getPayload(id, context.tx)) : this.storage.getPayload(id),
    )
  }

  /** Deletes one bounded batch of what has expired. Not needed by users: see `sagaStore().cleanup`. */
  purge(limit: number): Promise<Purged> {
    return this.#log.purge(() => this.storage.purge(limit))
  }

  /** Subscribes to events written by this process. Not needed by users. */
  onWake(listener: WakeListener): () => void {
    return this.#wake.subscribe(listener)
  }

  /** Runs `fn` outside any transaction's async context. Not needed by users. */
  detached<R>(fn: () => R): R {
    return this.#ambient.run(undefined, fn)
  }

  async #apply(
    outcomes: readonly Outcome[],
    context?: TransactionContext<Tx>,
  ): Promise<readonly OutcomeResult[]> {
    const announce = !context && outcomes.some(isEmitted) && this.#wake.takeTurn()
    const writing = this.#log.write(outcomes, () =>
      context
        ? context.run(() => this.storage.write(outcomes, context.tx))
        : this.storage.write(outcomes, undefined, { announce }),
    )
    if (announce) writing.catch(() => this.#wake.announce())
    const results = await writing
    this.#wakeFor(outcomes, results, context, announce)
    return results
  }

  #contextOf(explicit: Tx | undefined): TransactionContext<Tx> | undefined {
    if (explicit === undefined) return this.#ambient.getStore()
    const known = this.#openContext(explicit) ?? this.#contexts.get(explicit as object)
    return known ?? new TransactionContext(explicit)
  }

  #openContext(tx: Tx): TransactionContext<Tx> | undefined {
    const ambient = this.#ambient.getStore()
    if (ambient?.tx === tx) return ambient
    const known = this.#contexts.get(tx as object)
    return known?.open ? known : undefined
  }

  #within<R>(context: TransactionContext<Tx>, fn: (tx: Tx) => R | Promise<R>): Promise<R> {
    this.#contexts.set(context.tx as object, context)
    return this.#ambient.run(context, () => context.complete(fn))
  }

  #wakeFor(
    outcomes: readonly Outcome[],
    results: readonly OutcomeResult[],
    context: TransactionContext<Tx> | undefined,
    announced: boolean,
  ): void {
    const now = this.clock.now()
    let soonest = Number.POSITIVE_INFINITY
    for (const [index, { settle, append }] of outcomes.entries()) {
      if (results[index]?.status !== 'applied') continue
      for (const { due, leased } of append) if (!leased) soonest = Math.min(soonest, dueInMs(due, now))
      if (settle?.kind === 'retry') soonest = Math.min(soonest, settle.delayMs)
      if (settle?.kind === 'revive') soonest = Math.min(soonest, 0)
    }
    if (soonest === Number.POSITIVE_INFINITY) return
    if (context) context.soonestDueMs = Math.min(context.soonestDueMs ?? soonest, soonest)
    else this.#wake.after(soonest, { elsewhere: !announced && outcomes.some(isEmitted) })
  }
}

// What a worker appends it most likely takes itself: only what comes from outside is worth a push to others.
function isEmitted({ settle, append }: Outcome): boolean {
  return !settle && append.some(isDueAtOnce)
}
