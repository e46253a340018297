import type { Clock } from '../clock.ts'
import { started } from '../emitting/transaction-context.ts'
import { UnansweredError } from './attempt-errors.ts'

/**
 * Settles as `call` does, or rejects with an UnansweredError after `ms`. Nothing is taken back then: `late` gets what
 * the call still comes back with.
 */
export function answeredWithin<R>(
  clock: Clock,
  ms: number,
  call: () => Promise<R>,
  late: (result: R) => void = () => {},
): Promise<R> {
  return new Promise((resolve, reject) => {
    let waiting = true
    const cancel = clock.after(ms, () => {
      waiting = false
      reject(new UnansweredError(ms))
    })
    const over = (): boolean => {
      cancel()
      return !waiting
    }
    started(call).then(
      (result) => (over() ? late(result) : resolve(result)),
      // That a call nobody waits for any more has failed is no news.
      (error) => over() || reject(error),
    )
  })
}

/** Calls that have not been answered, for as long as there is hope that they will be. */
export class Unanswered {
  readonly #clock: Clock
  readonly #hopeMs: number
  readonly #calls = new Set<object>()

  constructor(clock: Clock, hopeMs: number) {
    this.#clock = clock
    this.#hopeMs = hopeMs
  }

  get any(): boolean {
    return this.#calls.size > 0
  }

  count<R>(call: Promise<R>): Promise<R> {
    const over = (): void => {
      cancel()
      this.#calls.delete(call)
    }
    const cancel = this.#clock.after(this.#hopeMs, over)
    this.#calls.add(call)
    call.then(over, over)
    return call
  }
}

// A call is an exception when it takes so many times as long as others do.
const EXCEPTIONAL_TIMES = 4

// How much of the longest recent time still counts after the next call.
const FADING = 0.9

/**
 * How long calls of one kind take of late. A database that is slow with all of them is not to be asked for more at once:
 * only a call that takes much longer than the others is given up on.
 */
export class Pace {
  readonly #clock: Clock
  readonly #mostMs: number
  #recentMs = 0

  /** @param mostMs however slow the database is */
  constructor(clock: Clock, mostMs: number) {
    this.#clock = clock
    this.#mostMs = mostMs
  }

  /** A deadline of `ms`, or later while the database is slow. */
  atLeast(ms: number): number {
    return Math.max(ms, Math.min(Math.ceil(EXCEPTIONAL_TIMES * this.#recentMs), this.#mostMs))
  }

  async timed<R>(call: () => Promise<R>): Promise<R> {
    const started = this.#clock.elapsed()
    try {
      return await call()
    } finally {
      this.#recentMs = Math.max(this.#recentMs * FADING, this.#clock.elapsed() - started)
    }
  }
}
