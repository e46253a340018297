import type { Clock } from '../clock.ts'
import { started } from '../emitting/transaction-context.ts'
import { UnansweredError } from '../errors.ts'

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
