import { NestedTransactionError, TransactionClosedError } from '../errors.ts'
import type { Storage } from '../storage.ts'
import { Watch } from './watched.ts'

/** One open transaction of an outbox, or a part of one that can be taken back alone. */
export class TransactionContext<Tx> {
  readonly tx: Tx
  /** Whether the outbox learns of its end. It does not of a transaction that the user opened and only passed on. */
  readonly owned: boolean
  /** The soonest an event written in this transaction is due, in milliseconds from now; undefined without one. */
  soonestDueMs: number | undefined
  /** Keys in which another event may wait that its settlements could not see: to be asked about once it has ended. */
  readonly unsureKeys: string[] = []
  /** Resolves once what has been emitted into keys so far is written. */
  keyed: Promise<unknown> | undefined
  readonly #storage: Pick<Storage<Tx, never>, 'nested' | 'mark'>
  readonly #watch = new Watch((error) => void Promise.reject(error))
  readonly #unfinished = new Set<Promise<unknown>>()
  #open = true
  #running = 0
  #last: Promise<void> = Promise.resolve()
  /** Why it can't commit any more. */
  #doom: { readonly cause: unknown } | undefined

  constructor(
    tx: Tx,
    storage: Pick<Storage<Tx, never>, 'nested' | 'mark'>,
    { owned = true }: { readonly owned?: boolean } = {},
  ) {
    this.tx = tx
    this.#storage = storage
    this.owned = owned
  }

  get open(): boolean {
    return this.#open
  }

  /** @throws TransactionClosedError once the transaction has ended. */
  assertOpen(): void {
    if (!this.#open) throw new TransactionClosedError()
  }

  /** Notes where the caller is: what it returns throws when that part has been rolled back by the time of a write. */
  mark(): (() => void) | undefined {
    return this.#storage.mark?.(this.tx)
  }

  /**
   * Runs one operation after the one before, at once when there is none: drivers whose transaction is one connection
   * or session take no parallel use. The transaction's end waits for it even if the caller doesn't.
   */
  run<R>(operation: () => Promise<R>): Promise<R> {
    this.assertOpen()
    const result = this.#running === 0 ? started(operation) : this.#last.then(operation)
    this.#running++
    this.#last = this.#keep(result).then(() => void this.#running--)
    return result
  }

  /**
   * Makes the transaction's end wait for `work`, and fail with it unless somebody handles its failure. What the outbox
   * does not learn the end of fails like any promise.
   */
  track<R>(work: Promise<R>): Promise<R> {
    if (!this.owned) return work
    void this.#keep(work)
    return this.#watch.over(work)
  }

  /** Runs the transaction's callback, then everything it started without awaiting it; afterwards nothing enters. */
  async complete<R>(callback: (tx: Tx) => R | Promise<R>): Promise<R> {
    try {
      const result = await callback(this.tx)
      do {
        while (this.#unfinished.size > 0) await Promise.allSettled(this.#unfinished)
        await this.#watch.passedOn()
      } while (this.#unfinished.size > 0)
      const { unattended } = this.#watch
      if (unattended) throw unattended.error
      if (this.#doom) throw new NestedTransactionError(this.#doom.cause)
      return result
    } finally {
      this.#open = false
      this.#watch.close()
      // After a failure, let what still runs on the handle end before the driver rolls back.
      if (this.#unfinished.size > 0) await Promise.allSettled(this.#unfinished)
    }
  }

  /**
   * Runs a transaction inside this one, with nothing beside it. When it fails, what it wrote is taken back, where the
   * database can; else this one can't commit any more, even if the failure is caught.
   */
  async nested<R>(within: (inner: TransactionContext<Tx>) => Promise<R>): Promise<R> {
    const storage = this.#storage
    const inner = new TransactionContext(this.tx, storage)
    try {
      const result = await this.run(() =>
        storage.nested ? storage.nested(this.tx, () => within(inner)) : within(inner),
      )
      this.noteDue(inner.soonestDueMs)
      this.unsureKeys.push(...inner.unsureKeys)
      return result
    } catch (cause) {
      if (!storage.nested) this.#doom ??= { cause }
      throw cause
    }
  }

  /** An event was written that is due so soon. */
  noteDue(inMs: number | undefined): void {
    if (inMs !== undefined) this.soonestDueMs = Math.min(this.soonestDueMs ?? inMs, inMs)
  }

  /** Resolves when `work` is over, however it ended. */
  #keep(work: Promise<unknown>): Promise<void> {
    this.#unfinished.add(work)
    const over = (): void => void this.#unfinished.delete(work)
    return work.then(over, over)
  }
}

/** What `operation` returns; a promise that rejects where it throws before it returns one. */
export function started<R>(operation: () => Promise<R>): Promise<R> {
  try {
    return operation()
  } catch (error) {
    return Promise.reject(error)
  }
}
