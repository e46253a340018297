// More than this many known due times say nothing that polling would not find as well.
const MOST = 1000

/** The moments at which this process knows an event to become due, soonest first. */
export class WakeTimes {
  readonly #times: number[] = []

  add(at: number): void {
    let index = this.#times.length
    while (index > 0 && (this.#times[index - 1] as number) > at) index--
    if (this.#times[index - 1] === at) return
    this.#times.splice(index, 0, at)
    if (this.#times.length > MOST) this.#times.pop()
  }

  get next(): number | undefined {
    return this.#times[0]
  }

  dropUntil(now: number): void {
    const kept = this.#times.findIndex((at) => at > now)
    this.#times.splice(0, kept === -1 ? this.#times.length : kept)
  }
}
