import type { Clock } from 'outbox-core'

/** A clock that knows which of its timers are pending: those of one worker, whatever others wait for. */
export class CountedClock implements Clock {
  readonly #clock: Clock
  readonly #pending = new Set<{ readonly at: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get pending(): number {
    return this.#pending.size
  }

  now(): number {
    return this.#clock.now()
  }

  elapsed(): number {
    return this.#clock.elapsed()
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#clock.elapsed() + ms }
    this.#pending.add(timer)
    const cancel = this.#clock.after(ms, () => {
      this.#pending.delete(timer)
      callback()
    })
    return () => {
      this.#pending.delete(timer)
      cancel()
    }
  }
}
