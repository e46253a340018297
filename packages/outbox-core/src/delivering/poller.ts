import type { Clock } from '../clock.ts'
import { WakeTimes } from './wake-times.ts'

/** What a lease brought: how many events, and whether there may be more. */
export interface Taken {
  readonly count: number
  readonly more: boolean
}

/** Leases again and again: at once while there is more, when something is known to become due, else ever more rarely. */
export class Poller {
  readonly #clock: Clock
  readonly #pauses: { readonly minPollMs: number; readonly maxPollMs: number }
  readonly #full: () => boolean
  readonly #lease: () => Promise<Taken>
  readonly #wakeTimes = new WakeTimes()
  #stopping = false
  #wakeUp: (() => void) | undefined
  #roomMade: (() => void) | undefined
  #polling: Promise<void> = Promise.resolve()

  /**
   * @param full whether the worker has enough to do; it says so when it has room again
   * @param lease never throws
   */
  constructor(
    clock: Clock,
    pauses: { readonly minPollMs: number; readonly maxPollMs: number },
    { full, lease }: { full: () => boolean; lease: () => Promise<Taken> },
  ) {
    this.#clock = clock
    this.#pauses = pauses
    this.#full = full
    this.#lease = lease
  }

  start(): void {
    this.#polling = this.#poll()
  }

  /** Leases no more. Resolves when the last lease has been answered. */
  stop(): Promise<void> {
    this.#stopping = true
    this.#wakeUp?.()
    this.#roomMade?.()
    return this.#polling
  }

  /** Something will be due after so long. */
  wakeIn(inMs: number): void {
    this.#wakeTimes.add(this.#clock.elapsed() + Math.max(0, inMs))
    this.#wakeUp?.()
  }

  /** The worker has less to do than before. */
  offerRoom(): void {
    if (!this.#full()) this.#roomMade?.()
  }

  async #poll(): Promise<void> {
    const { minPollMs, maxPollMs } = this.#pauses
    let pause = minPollMs
    while (!this.#stopping) {
      await this.#room()
      this.#wakeTimes.dropUntil(this.#clock.elapsed())
      const { count, more } = await this.#lease()
      if (count > 0) pause = minPollMs
      if (more) continue
      const woken = await this.#sleep(pause)
      pause = woken ? minPollMs : Math.min(pause * 2, maxPollMs)
    }
  }

  async #room(): Promise<void> {
    while (this.#full() && !this.#stopping) {
      await new Promise<void>((resolve) => {
        this.#roomMade = resolve
      })
    }
  }

  /** Resolves after `ms`, or with true as soon as an event is known to be due. */
  async #sleep(ms: number): Promise<boolean> {
    const end = this.#clock.elapsed() + ms
    while (!this.#stopping) {
      const now = this.#clock.elapsed()
      const due = this.#wakeTimes.next
      if (due !== undefined && due <= now) return true
      const left = Math.min(end, due ?? end) - now
      if (left <= 0) return false
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.after(left, resolve)
        this.#wakeUp = () => {
          cancel()
          resolve()
        }
      })
    }
    return false
  }
}
