import type { Lease } from 'outbox-core'
import type { EventItem } from './event-items.ts'

type Held = Lease & Pick<EventItem, 'type' | 'key' | 'place'>

// More than a process has leased at once; without a place noted the event is read.
const MOST = 10_000

/**
 * The places of the events that this process has leased: to settle one takes its place, and to read that costs what the
 * event is large. A place does not change as long as the event is there.
 */
export class HeldPlaces {
  readonly #held = new Map<string, Held>()

  note({ id, attempt, type, key, place }: Held): void {
    if (key === undefined || place === undefined) return
    this.#held.delete(id)
    this.#held.set(id, { id, attempt, type, key, place })
    const [oldest] = this.#held.keys()
    if (this.#held.size > MOST && oldest !== undefined) this.#held.delete(oldest)
  }

  /** What was noted of a lease, once. */
  take({ id, attempt }: Lease): Held | undefined {
    const held = this.#held.get(id)
    if (held?.attempt !== attempt) return undefined
    this.#held.delete(id)
    return held
  }
}
