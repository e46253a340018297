import type { Clock } from '../clock.ts'
import type { OutboxEvent } from '../emitting/event.ts'
import type { Attempt } from './attempt.ts'
import { TimeoutError } from './attempt-errors.ts'

interface Waiter {
  readonly type: string
  readonly where: (event: OutboxEvent) => boolean
  readonly resolve: (event: OutboxEvent) => void
  readonly reject: (error: unknown) => void
}

/** Who waits for which event to be completed. */
export class Waiters {
  readonly #waiters = new Set<Waiter>()
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
  }

  wait(type: string, where: (event: OutboxEvent) => boolean, timeoutMs: number): Promise<OutboxEvent> {
    return new Promise((resolve, reject) => {
      const end = (): void => {
        cancel()
        this.#waiters.delete(waiter)
      }
      const waiter: Waiter = {
        type,
        where,
        resolve: (event) => {
          end()
          resolve(event)
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

  completed(attempt: Attempt): void {
    const waiting = [...this.#waiters].filter(({ type }) => type === attempt.type)
    if (waiting.length === 0) return
    const { event } = attempt
    for (const waiter of waiting) {
      try {
        if (waiter.where(event)) waiter.resolve(event)
      } catch (error) {
        waiter.reject(error)
      }
    }
  }
}
