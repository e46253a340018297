import type { Clock } from '../clock.ts'

// A rolling deploy ends within it: long enough that an old event is not buried by the first old worker that meets it.
export const LEAST_ACQUAINTANCE_MS: number = 10 * 60_000

const MOST_KNOWN = 10_000

/**
 * How long events wait for a process that can handle them, where this one can't: for `deferForMs` after they were
 * stored, and at least for some minutes after this process met them first.
 */
export class Patience {
  readonly #clock: Clock
  readonly #deferForMs: number
  /** When this process met an event first, by the clock's `elapsed`. */
  readonly #met = new Map<string, number>()

  constructor(clock: Clock, deferForMs: number) {
    this.#clock = clock
    this.#deferForMs = deferForMs
  }

  /** Notes that this process can't handle the event. Says whether that is news. */
  meet(eventId: string): boolean {
    if (this.#met.has(eventId)) return false
    const [oldest] = this.#met.keys()
    if (this.#met.size >= MOST_KNOWN && oldest !== undefined) this.#met.delete(oldest)
    this.#met.set(eventId, this.#clock.elapsed())
    return true
  }

  isOver(eventId: string, ageMs: number): boolean {
    const met = this.#met.get(eventId) ?? this.#clock.elapsed()
    const acquainted = this.#clock.elapsed() - met
    const over = ageMs >= this.#deferForMs && acquainted >= Math.min(this.#deferForMs, LEAST_ACQUAINTANCE_MS)
    if (over) this.#met.delete(eventId)
    return over
  }
}
