import { TransactionClosedError } from '../errors.ts'

/** One open transaction of an outbox, as kept in its AsyncLocalStorage. */
export class TransactionContext<Tx> {
  readonly tx: Tx
  /** The soonest an event written in this transaction is due, in milliseconds from now; undefined without one. */
  soonestDueMs: number | undefined
  #open = true
  #last: Promise<void> = Promise.resolve()
  readonly #unfinished = new Set<Promise<unknown>>()

  constructor(tx: Tx) {
    this.tx = tx
  }

  get open(): boolean {
    return this.#open
  }

  /** @throws TransactionClosedError once the transaction has ended. */
  assertOpen(): void {
    if (!this.#open) throw new TransactionClosedError()
  }

  /**
   * Runs one operation after the one before: drivers whose transaction is one connection or session take no
   * parallel use. The transaction's end waits for it even if the caller doesn't.
   */
  run<R>(operation: () => Promise<R>): Promise<R> {
    this.assertOpen()
    const result = this.#last.then(operation)
    this.#last = this.#keep(result)
    return result
  }

  /** Makes the transaction's end wait for `work`, and fail with it. */
  track<R>(work: Promise<R>): Promise<R> {
    void this.#keep(work)
    return work
  }

  /** Runs the transaction's callback, then everything it started without awaiting it; afterwards nothing enters. */
  async complete<R>(callback: (tx: Tx) => R | Promise<R>): Promise<R> {
    try {
      const result = await callback(this.tx)
      while (this.#unfinished.size > 0) await Promise.all(this.#unfinished)
      return result
    } finally {
      this.#open = false
      // After a failure, let what still runs on the handle end before the driver rolls back.
      if (this.#unfinished.size > 0) await Promise.allSettled(this.#unfinished)
    }
  }

  /** Resolves when `work` is over. The transaction fails with it: should nobody await it, that is report enough. */
  #keep(work: Promise<unknown>): Promise<void> {
    this.#unfinished.add(work)
    const over = (): void => void this.#unfinished.delete(work)
    return work.then(over, over)
  }
}
