/** What becomes of one call of a driver. */
type Fate = 'through' | 'refused' | 'unanswered'

/** Makes one in a hundred calls of a driver fail, before it is sent or after it is done; the same ones for the same seed. */
export class DriverFaults {
  /** How many calls there were. */
  calls = 0
  refused = 0
  unanswered = 0
  readonly #random: () => number

  constructor(random: () => number) {
    this.#random = random
  }

  /** One of several, as often as any. */
  oneOf<Choice>(...choices: readonly [Choice, ...Choice[]]): Choice {
    return choices[Math.floor(this.#random() * choices.length)] ?? choices[0]
  }

  /** Calls the driver. `before` makes the error of a call that was not sent, `after` of one that was not answered. */
  async around<R>(call: () => Promise<R>, before: () => Error, after: () => Error): Promise<R> {
    const fate = this.#fate('refused', 'unanswered')
    if (fate === 'refused') throw before()
    const result = await call()
    if (fate === 'unanswered') throw after()
    return result
  }

  /** The same for a driver that has no connection to lose: what it was told is done, or it was refused. */
  aroundSync<R>(call: () => R, before: () => Error): R {
    if (this.#fate('refused') === 'refused') throw before()
    return call()
  }

  #fate(...failures: readonly ['refused', ...'unanswered'[]]): Fate {
    this.calls++
    if (this.#random() >= 0.01) return 'through'
    const fate = this.oneOf(...failures)
    this[fate]++
    return fate
  }
}
