import type { LeasedEvent } from '../storage.ts'

// Where few keys are all there is to do, a worker goes on with what waits in them: so much in all.
const BEHIND_ALL = 400

// Where there are many, each has a short run all the same: what waits in the others has waited for longer.
const LEAST_BEHIND = 7

// Asking is a look at every key that was leased. Where hardly any has more to do, only one lease of so many asks.
const SELDOM = 16

/** How much of what waits behind the first events of keys a lease is to bring, by what the leases before it have brought. */
export class RunLength {
  #keys = 0
  #worthwhile = true
  #notAsked = 0

  /** Of the next lease. */
  get behind(): number {
    if (this.#keys === 0 || !(this.#worthwhile || this.#notAsked >= SELDOM)) return 0
    return Math.max(LEAST_BEHIND, Math.floor(BEHIND_ALL / this.#keys))
  }

  /** What a lease has brought that was asked for so many behind each. */
  learn(leased: readonly LeasedEvent[], behind: number): void {
    // While a key is being handled nothing comes of it.
    if (leased.length === 0) return
    const keyed = leased.filter(({ key }) => key !== null)
    this.#keys = keyed.length
    if (behind === 0) this.#notAsked++
    else if (keyed.length > 0) {
      this.#notAsked = 0
      this.#worthwhile = keyed.filter((event) => event.behind !== undefined).length >= keyed.length / 4
    }
  }
}
