import type { Clock } from './clock.ts'
import type { Delivery } from './delivery.ts'
import { TimeoutError } from './errors.ts'

interface Waiter {
  readonly type: string
  readonly where: (delivery: Delivery) => boolean
  readonly resolve: (delivery: Delivery) => void
}

/** Who waits for which event to be completed. */
export class Waiters {
  readonly #waiters = new Set<Waiter>()
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
  }

  wait(type: string, where: (delivery: Delivery) => boolean, timeoutMs: number): Promise<Delivery> {
    return new Promise((resolve, reject) => {
      const cancel = this.#clock.after(timeoutMs, () => {
        this.#waiters.delete(waiter)
        reject(new TimeoutError(`no event "${type}" that matches was completed here within ${timeoutMs} ms`))
      })
      const waiter: Waiter = {
        type,
        where,
        resolve: (delivery) => {
          cancel()
          this.#waiters.delete(waiter)
          resolve(delivery)
        },
      }
      this.#waiters.add(waiter)
    })
  }

  completed(delivery: Delivery): void {
    for (const waiter of this.#waiters) {
      if (waiter.type === delivery.type && waiter.where(delivery)) waiter.resolve(delivery)
    }
  }
}
