import { setImmediate } from 'node:timers/promises'
import type { Clock } from '../clock.ts'
import { ConfigurationError } from '../errors.ts'

interface Timer {
  readonly at: number
  readonly callback: () => void
}

/**
 * A clock that stands still until a test advances it, for an `InMemoryOutbox` and whatever runs on one. Core's waits
 * (polling, backoff, timeouts) then take no real time. It does not turn the clock of a real database.
 */
export class ManualClock implements Clock {
  #now: number
  #timers: Timer[] = []
  #advanced: Promise<void> = Promise.resolve()

  /** @param now where it starts, in milliseconds since the epoch; @default 2026-01-01T00:00:00Z */
  constructor(now: number = Date.UTC(2026, 0, 1)) {
    this.#now = now
  }

  now(): number {
    return this.#now
  }

  elapsed(): number {
    return this.#now
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, ms), callback }
    const later = this.#timers.findIndex(({ at }) => at > timer.at)
    this.#timers.splice(later === -1 ? this.#timers.length : later, 0, timer)
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer)
    }
  }

  /**
   * Moves the time on and calls what becomes due on the way, in order and each at its own moment, timers set
   * meanwhile included. Promise work settles before the first timer, between timers and after the last; work that
   * waits for the outside world (a socket, a thread) is not waited for. Calls that overlap run one after another.
   *
   * @param ms how far, 0 or more
   * @throws ConfigurationError for a time that would run backwards; what a timer's callback threw
   */
  advance(ms: number): Promise<void> {
    if (!(ms >= 0 && ms < Number.POSITIVE_INFINITY)) {
      return Promise.reject(new ConfigurationError('ms', ms, 'a clock is advanced by 0 or more milliseconds'))
    }
    const advanced = this.#advanced.then(() => this.#advanceTo(this.#now + ms))
    this.#advanced = advanced.catch(() => {})
    return advanced
  }

  async #advanceTo(target: number): Promise<void> {
    // Every microtask runs before an immediate does, however long their chain.
    await setImmediate()
    for (let timer = this.#timers[0]; timer && timer.at <= target; timer = this.#timers[0]) {
      this.#timers.shift()
      this.#now = timer.at
      timer.callback()
      await setImmediate()
    }
    this.#now = target
  }
}
