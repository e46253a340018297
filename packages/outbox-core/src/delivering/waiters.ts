import type { Clock } from '../clock.ts'
import { TimeoutError } from '../errors.ts'
import type { Delivery } from './delivery.ts'

interface Waiter {
  readonly type: string
  readonly where: (delivery: Delivery) => boolean
  readonly resolve: (delivery: Delivery) => void
  readonly reject: (error: unknown) => void
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
      const end = (): void => {
        cancel()
        this.#waiters.delete(waiter)
      }
      const waiter: Waiter = {
        type,
        where,
        resolve: (delivery) => {
          end()
          resolve(delivery)
        },
        reject: (error) => {
          end()
          reject(error)
        },
      }
      const cancel = this.#clock.after(timeoutMs, () => {
        waiter.reject(
          new TimeoutError(`no event "${type}" that matches was completed here within ${timeoutMs} ms`),
        )
      })
      this.#waiters.add(waiter)
    })
  }

  completed(delivery: Delivery): void {
    for (const waiter of this.#waiters) {
      if (waiter.type !== delivery.type) continue
      try {
        if (waiter.where(delivery)) waiter.resolve(delivery)
      } catch (error) {
        waiter.reject(error)
      }
    }
  }
}
