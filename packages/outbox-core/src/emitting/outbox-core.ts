import { PayloadLog } from '../claims/payload-log.ts'
import type { Clock } from '../clock.ts'
import { ForeignTransactionError, TransactionMissingError, TransactionOpenError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { Outcome, OutcomeResult, Purged, PurgeOptions, Storage, StorageStats } from '../storage.ts'
import { Advancing } from './advancing.ts'
import { ambientTransactions, withinTransaction } from './ambient.ts'
import { isEmitted, isForOthers, keysEntered, meetsOthers, soonestDueMs, unsureKeys } from './consequences.ts'
import { GroupCommit } from './group-commit.ts'
import { KeyTurns } from './key-turns.ts'
import { started, TransactionContext } from './transaction-context.ts'
import { Wake } from './wake.ts'

// What one statement deletes is locked, logged and vacuumed as a whole.
const PURGED_BYTES = 64 * 1024 * 1024

/**
 * What stands behind the face of an outbox, for bus, engine, saga store and dispatcher: which transaction a call
 * belongs to, and the one write.
 */
export class OutboxCore<Tx = unknown, TxOptions = never> {
  readonly storage: Storage<Tx, TxOptions>
  readonly clock: Clock
  readonly logger: Logger
  readonly maxEventBytes: number
  readonly wake: Wake
  readonly keys: Advancing
  /** Who takes events in this process, of this outbox. */
  readonly workers: Set<{ handles(address: string): boolean }> = new Set()
  readonly #contexts = new WeakMap<object, TransactionContext<Tx>>()
  readonly #log: PayloadLog
  readonly #groupCommit: GroupCommit
  readonly #turns: KeyTurns

  constructor(
    storage: Storage<Tx, TxOptions>,
    ground: { readonly clock: Clock; readonly logger: Logger; readonly maxEventBytes: number },
  ) {
    this.storage = storage
    this.clock = ground.clock
    this.logger = ground.logger
    this.maxEventBytes = ground.maxEventBytes
    this.#log = new PayloadLog(this.logger)
    this.wake = new Wake(storage, this.clock, this.logger)
    this.keys = new Advancing(storage, ground, this.wake)
    this.#turns = new KeyTurns(this.clock)
    this.#groupCommit = new GroupCommit((outcomes) => this.#apply(outcomes), this.clock)
  }

  transaction<R>(fn: (tx: Tx) => R | Promise<R>, options?: TxOptions): Promise<R> {
    return started(() => {
      const outer = this.#ambient()
      if (!outer) return this.#own(fn, options)
      outer.assertOpen()
      return outer.track(outer.nested((context) => this.#within(context, fn, outer)))
    })
  }

  enlist<R>(tx: Tx, fn: (tx: Tx) => R | Promise<R>): Promise<R> {
    return started(() => {
      const open = this.#openContext(tx)
      // Tracked: two calls side by side share one context, and the first to end must not close it under the other.
      if (open?.owned) return open.track(withinTransaction(this, asAmbient(open), async () => fn(open.tx)))
      return this.#enlisted(tx, fn)
    })
  }

  /**
   * Does `work` in the transaction it belongs to: the one of `explicit` when given, else the ambient one, else none.
   * The transaction's end waits for it and fails with it, so inside one a promise that nobody awaits is no unhandled
   * rejection. `work` is begun at the call.
   *
   * @throws TransactionClosedError; TransactionMissingError for null; ForeignTransactionError inside a transaction of
   *   another outbox on the same client, which this would leave without a word
   */
  participate<R>(
    explicit: Tx | undefined,
    work: (context: TransactionContext<Tx> | undefined) => Promise<R>,
  ): Promise<R> {
    return started(() => {
      const context = this.#contextOf(explicit)
      context?.assertOpen()
      const working = started(() => work(context))
      return context ? context.track(working) : working
    })
  }

  /** @throws TransactionOpenError inside a transaction, of which `what` can't be a part */
  assertNoTransaction(what: string): void {
    if (!this.#ambient()) return
    throw new TransactionOpenError(
      `${what} can't be part of a transaction, and would wait for its end; call it outside, or in outbox.detached(…)`,
    )
  }

  /** @throws TransactionOpenError inside a transaction */
  async initialize(): Promise<void> {
    this.assertNoTransaction('initialize()')
    await this.storage.initialize()
  }

  /** Inside a transaction, as it sees them. */
  stats(context?: TransactionContext<Tx>): Promise<StorageStats> {
    return context ? context.run(() => this.storage.stats(context.tx)) : this.storage.stats()
  }

  /** The one write of core: applies outcomes in `context`, or in a transaction of their own. */
  async write(
    outcomes: readonly Outcome[],
    context?: TransactionContext<Tx>,
  ): Promise<readonly OutcomeResult[]> {
    const only = outcomes.length === 1 ? outcomes[0] : undefined
    const shared = only && !context && this.#mayShare(only)
    return shared ? [await this.#groupCommit.write(only)] : this.#apply(outcomes, context)
  }

  /** Reads a payload's bytes as stored. */
  readPayload(
    id: string,
    context: TransactionContext<Tx> | undefined,
    routingSlipId?: string,
  ): Promise<Uint8Array | undefined> {
    return this.#log.read({ routingSlipId, claimId: id }, () =>
      context ? context.run(() => this.storage.getPayload(id, context.tx)) : this.storage.getPayload(id),
    )
  }

  /** Deletes one bounded batch of what has expired. */
  purge(limit: number, options: Pick<PurgeOptions, 'background'> = {}): Promise<Purged> {
    return this.#log.purge(() => this.storage.purge(limit, { ...options, bytes: PURGED_BYTES }))
  }

  async #own<R>(fn: (tx: Tx) => R | Promise<R>, options: TxOptions | undefined): Promise<R> {
    this.#assertNoneOfOthers()
    let context: TransactionContext<Tx> | undefined
    const result = await this.storage.transaction((tx) => {
      context = new TransactionContext(tx, this.storage)
      return this.#within(context, fn)
    }, options)
    if (context?.soonestDueMs !== undefined) this.wake.after(context.soonestDueMs, { elsewhere: true })
    if (context) this.keys.ask(context.unsureKeys)
    return result
  }

  #enlisted<R>(tx: Tx, fn: (tx: Tx) => R | Promise<R>): Promise<R> {
    return this.storage.enlist(tx, async (handle) => {
      const context = new TransactionContext(handle, this.storage)
      this.#contexts.set(tx as object, context)
      try {
        return await this.#within(context, fn)
      } finally {
        // The same handle may be enlisted again for the user's next transaction.
        this.#contexts.delete(tx as object)
        if (context.soonestDueMs !== undefined) this.wake.afterUnseenCommit(context.soonestDueMs)
        this.keys.ask(context.unsureKeys)
      }
    })
  }

  #apply(outcomes: readonly Outcome[], context?: TransactionContext<Tx>): Promise<readonly OutcomeResult[]> {
    const keys = context || this.storage.idsAreFree ? [] : keysEntered(outcomes)
    if (keys.length === 0) return this.#write(outcomes, context)
    return this.#turns.run(keys, () => this.#write(outcomes))
  }

  async #write(
    outcomes: readonly Outcome[],
    context?: TransactionContext<Tx>,
  ): Promise<readonly OutcomeResult[]> {
    const announce = !context && outcomes.some(isEmitted) && this.wake.takeTurn()
    const writing = this.#log.write(outcomes, () =>
      context
        ? context.run(() => this.storage.write(outcomes, context.tx))
        : this.storage.write(outcomes, undefined, { announce }),
    )
    if (announce) writing.catch(() => this.wake.announce())
    const results = await writing
    this.#wakeFor(outcomes, results, context, announce)
    this.#goAfter(unsureKeys(outcomes, results), context)
    return results
  }

  #mayShare(outcome: Outcome): boolean {
    // A claim has an id that was made up with its event; a payload without one was put under an id of the user's.
    const waitsForNobody = this.storage.idsAreFree || (outcome.append.length > 0 && !this.mayWait(outcome))
    return this.storage.writesTogether && !outcome.settle && waitsForNobody
  }

  /**
   * Whether writing it may have to wait for someone else's transaction, and with it all that is written in the same one:
   * for an id that users chose, or for a key.
   */
  mayWait(outcome: Outcome): boolean {
    return !this.storage.idsAreFree && meetsOthers(outcome)
  }

  #goAfter(keys: readonly string[], context: TransactionContext<Tx> | undefined): void {
    if (context) context.unsureKeys.push(...keys)
    else this.keys.ask(keys)
  }

  #contextOf(explicit: Tx | undefined): TransactionContext<Tx> | undefined {
    if (explicit === null) throw new TransactionMissingError('the transaction given is null')
    if (explicit === undefined) {
      const ambient = this.#ambient()
      if (!ambient) this.#assertOutside()
      return ambient
    }
    const known = this.#openContext(explicit) ?? this.#contexts.get(explicit as object)
    if (known) return known
    const context = new TransactionContext(explicit, this.storage, { owned: false })
    if (typeof explicit === 'object' || typeof explicit === 'function') this.#contexts.set(explicit, context)
    return context
  }

  /** The innermost transaction of this outbox around the caller. */
  #ambient(): TransactionContext<Tx> | undefined {
    for (let around = ambientTransactions(); around; around = around.outer) {
      if (around.owner === this) return around.context as unknown as TransactionContext<Tx>
    }
    return undefined
  }

  #assertOutside(): void {
    this.#assertNoneOfOthers()
    this.storage.assertOutside?.()
  }

  #assertNoneOfOthers(): void {
    for (let around = ambientTransactions(); around; around = around.outer) {
      if (around.owner.storage.client !== this.storage.client || !around.context.open) continue
      throw new ForeignTransactionError(
        'a transaction of another outbox on the same client is open around this call, which would not be part of it; ' +
          'use enlist(tx, …) or { transaction: tx } to take part in it, or detached(…) to stay outside',
      )
    }
  }

  #openContext(tx: Tx): TransactionContext<Tx> | undefined {
    const ambient = this.#ambient()
    if (ambient?.tx === tx) return ambient
    const known = this.#contexts.get(tx as object)
    return known?.open ? known : undefined
  }

  /** @param outer the transaction that `context` is a part of */
  async #within<R>(
    context: TransactionContext<Tx>,
    fn: (tx: Tx) => R | Promise<R>,
    outer?: TransactionContext<Tx>,
  ): Promise<R> {
    const handle = context.tx as object
    this.#contexts.set(handle, context)
    try {
      return await withinTransaction(this, asAmbient(context), () => context.complete(fn))
    } finally {
      if (outer) this.#contexts.set(handle, outer)
    }
  }

  #wakeFor(
    outcomes: readonly Outcome[],
    results: readonly OutcomeResult[],
    context: TransactionContext<Tx> | undefined,
    announced: boolean,
  ): void {
    const soonest = soonestDueMs(outcomes, results, this.clock.now())
    if (soonest === undefined) return
    const elsewhere = !announced && outcomes.some(isForOthers)
    if (!context) this.wake.after(soonest, { elsewhere })
    else if (context.owned) context.noteDue(soonest)
    else this.wake.afterUnseenCommit(soonest)
  }
}

// Whose transaction it is is told by its owner, before it is used as what it is.
function asAmbient<Tx>(context: TransactionContext<Tx>): TransactionContext<never> {
  return context as unknown as TransactionContext<never>
}
