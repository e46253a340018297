import { type Clock, endsWithin, systemClock } from '../clock.ts'

// One that takes longer keeps nobody waiting: the order of keys does not depend on turns.
const LONGEST_MS = 1_000

/**
 * Has what this process appends to a key appended one after the other, in the order of the calls. Side by side they would
 * meet in the database, where all but one wait or have to try again.
 */
export class KeyTurns {
  readonly #clock: Pick<Clock, 'after'>
  readonly #last = new Map<string, Promise<unknown>>()

  constructor(clock: Pick<Clock, 'after'> = systemClock) {
    this.#clock = clock
  }

  async run<R>(keys: Iterable<string | null>, work: () => Promise<R>): Promise<R> {
    const own = [...new Set(keys)].filter((key) => key !== null)
    if (own.length === 0) return work()
    const begun = Promise.all(own.map((key) => this.#last.get(key)))
    const turn = begun.then(work)
    const ended = begun.then(() => endsWithin(this.#clock, LONGEST_MS, Promise.allSettled([turn])))
    for (const key of own) this.#last.set(key, ended)
    try {
      return await turn
    } finally {
      for (const key of own) if (this.#last.get(key) === ended) this.#last.delete(key)
    }
  }
}
