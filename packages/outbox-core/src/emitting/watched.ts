/** The promises handed out in one transaction or by one handler, and whether anybody took charge of those that failed. */
export class Watch {
  readonly #late: (error: unknown) => void
  readonly #failed = new Set<Charge>()
  #closed = false

  /** @param late told of a failure that nobody took charge of and that came after `close` */
  constructor(late: (error: unknown) => void) {
    this.#late = late
  }

  /** A promise that settles as `work` does and is no unhandled rejection: who closes this watch sees to that. */
  over<T>(work: Promise<T>): Promise<T> {
    const charge: Charge = { taken: false, error: undefined }
    work.catch((error: unknown) => {
      charge.error = error
      if (!this.#closed) this.#failed.add(charge)
      else setImmediate(() => charge.taken || this.#late(error))
    })
    return new WatchedPromise(work, charge, this)
  }

  /** A failure that nobody has taken charge of, so far. */
  get unattended(): { readonly error: unknown } | undefined {
    for (const charge of this.#failed) if (!charge.taken) return charge
    return undefined
  }

  /** Resolves when whoever goes on from a failed one has got its failure, too: at once when none has failed. */
  passedOn(): void | Promise<void> {
    // From one to the next it takes microtasks only.
    if (this.#failed.size > 0) return new Promise((resolve) => setImmediate(resolve))
  }

  /** From now on failures are nobody's here. */
  close(): void {
    this.#closed = true
  }
}

interface Charge {
  taken: boolean
  error: unknown
}

/**
 * Notes that somebody handles its rejection: by `await`, by `catch`, by a second argument of `then`. Who only goes on
 * from it with `then` or `finally` gets another one that has to be handled.
 */
class WatchedPromise<T> extends Promise<T> {
  readonly #work: Promise<T>
  readonly #charge: Charge
  readonly #watch: Watch

  constructor(work: Promise<T>, charge: Charge, watch: Watch) {
    // Whoever waits for it, `await` included, goes through `then` and so to the promise it stands for.
    super(() => {})
    this.#work = work
    this.#charge = charge
    this.#watch = watch
  }

  // What is derived from it is made by the promise it stands for.
  static override get [Symbol.species](): PromiseConstructor {
    return Promise
  }

  // biome-ignore lint/suspicious/noThenProperty: a promise has one, and this one looks at who calls it
  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#charge.taken = true
    const derived = this.#work.then(onFulfilled, onRejected)
    return typeof onRejected === 'function' ? derived : this.#watch.over(derived)
  }

  override finally(onFinally?: (() => void) | null): Promise<T> {
    this.#charge.taken = true
    return this.#watch.over(this.#work.finally(onFinally))
  }
}
