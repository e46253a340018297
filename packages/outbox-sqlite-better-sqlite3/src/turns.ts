import { Mutex, withTimeout } from 'async-mutex'
import { TransactionTimeoutError } from 'outbox-core'

// Timers and I/O shall not wait longer than this: they renew leases, answer requests and end the process.
const EVENT_LOOP_WAITS_AT_MOST_MS = 10

/** What asynchronous code takes on one connection, one after the other. */
export class Turns {
  readonly #mutex = new Mutex()
  /** What has its turn, for whoever waits in vain. */
  #holder: { readonly what: string; readonly since: number } | undefined

  /** Whether someone has the turn, or timers and I/O are to go first. */
  get mustWait(): boolean {
    return this.#mutex.isLocked() || eventLoopWaits()
  }

  /**
   * Does `work` when its turn comes; what is `urgent` goes before everyone who waits.
   *
   * @throws TransactionTimeoutError naming who has the turn
   */
  async take<R>(
    what: string,
    { timeoutMs, urgent = false }: { readonly timeoutMs: number; readonly urgent?: boolean },
    work: () => R | Promise<R>,
  ): Promise<R> {
    // Promises alone never give way: a loop of quick transactions would hold up everything else until its end.
    if (eventLoopWaits()) await new Promise<void>((resolve) => setImmediate(resolve))
    const release = await this.#acquire(timeoutMs, urgent ? 1 : 0)
    this.#holder = { what, since: Date.now() }
    try {
      return await work()
    } finally {
      this.#holder = undefined
      release()
    }
  }

  #acquire(timeoutMs: number, priority: number): Promise<() => void> {
    if (!this.#mutex.isLocked()) return this.#mutex.acquire(priority)
    return withTimeout(this.#mutex, timeoutMs)
      .acquire(priority)
      .catch(() => {
        throw this.#timedOut(timeoutMs)
      })
  }

  #timedOut(timeoutMs: number): TransactionTimeoutError {
    const { what, since } = this.#holder ?? { what: 'a transaction', since: Date.now() }
    return new TransactionTimeoutError(
      `waited ${timeoutMs} ms for ${what}, open on this connection since ${new Date(since).toISOString()}; ` +
        'await it before starting another one, and inside it use the outbox only in its own async context',
    )
  }
}

let turnOfTheLoopBegan: number | undefined

function eventLoopWaits(): boolean {
  const now = performance.now()
  if (turnOfTheLoopBegan === undefined) {
    turnOfTheLoopBegan = now
    setImmediate(() => {
      turnOfTheLoopBegan = undefined
    })
  }
  return now - turnOfTheLoopBegan > EVENT_LOOP_WAITS_AT_MOST_MS
}
