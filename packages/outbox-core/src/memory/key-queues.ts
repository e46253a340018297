/** An event with a place in its key. */
interface Keyed {
  readonly id: string
}

/** The events of each key in their order, from the one that may be taken to the last. */
export class KeyQueues<Event extends Keyed> {
  readonly #byKey = new Map<string, Event[]>()

  /** Whether it is the first. */
  add(key: string, event: Event): boolean {
    const queue = this.#byKey.get(key)
    if (queue) return queue.push(event) === 1
    this.#byKey.set(key, [event])
    return true
  }

  /** Gives the place of one to others, in their order. */
  replace(key: string, event: Event, by: readonly Event[]): void {
    const queue = this.#byKey.get(key) ?? []
    const place = queue.indexOf(event)
    if (place !== -1) queue.splice(place, 1, ...by)
    if (queue.length === 0) this.#byKey.delete(key)
  }

  first(key: string): Event | undefined {
    return this.#byKey.get(key)?.[0]
  }

  /** Those behind an event. */
  after(key: string, event: Event): readonly Event[] {
    const queue = this.#byKey.get(key) ?? []
    const place = queue.indexOf(event)
    return place === -1 ? [] : queue.slice(place + 1)
  }

  /** How many wait behind an event. */
  behind(key: string, event: Event): number {
    const queue = this.#byKey.get(key) ?? []
    const place = queue.indexOf(event)
    return place === -1 ? 0 : queue.length - place - 1
  }
}
