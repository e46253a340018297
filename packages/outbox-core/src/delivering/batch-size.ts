// A batch that takes longer than this to be started is too much for one worker: the next one is smaller.
const SLOW_MS = 200

// So is one whose bodies take more of its memory than this, in UTF-16 units.
const LARGE = 4 * 1024 * 1024

/**
 * How many events one lease takes: at first as many as there are handlers, then twice as many each time while batches are
 * started quickly, and half as many while they are slow or large. What a worker has leased and can't start, idle ones
 * can't take.
 */
export class BatchSize {
  readonly #least: number
  readonly #most: number
  #current: number
  #startedAt: number | undefined
  #length = 0

  /** @param least enough to keep every handler busy */
  constructor(least: number, most: number) {
    this.#least = least
    this.#most = most
    this.#current = Math.min(least, most)
  }

  get current(): number {
    return this.#current
  }

  /** A new batch, asked for at `now`, is all there is to do. */
  begin(now: number): void {
    this.#startedAt = now
    this.#length = 0
  }

  /** An event with a body of this length belongs to the batch. */
  add(length: number): void {
    this.#length += length
  }

  /** The last event of the batch was started at `now`. What one worker has leased but can't start, others can't take. */
  end(now: number): void {
    if (this.#startedAt === undefined) return
    const tooMuch = now - this.#startedAt > SLOW_MS || this.#length > LARGE
    const wanted = tooMuch
      ? Math.max(Math.min(this.#least, this.#current), Math.floor(this.#current / 2))
      : this.#current * 2
    this.#current = Math.min(wanted, this.#most)
    this.#startedAt = undefined
  }
}
