import type { Attempt } from './attempt.ts'
import { leaseLost } from './heartbeat.ts'

/** Everything that a worker has leased and not yet settled. */
export class Held {
  /** The latest attempt at each event. */
  readonly #attempts = new Map<string, Attempt>()
  /** Older attempts at events that were leased here again. */
  readonly #superseded = new Set<Attempt>()
  #emptied: (() => void) | undefined

  get size(): number {
    return this.#attempts.size
  }

  /** Those whose leases are held. */
  get current(): Iterable<Attempt> {
    return this.#attempts.values()
  }

  get #isEmpty(): boolean {
    return this.#attempts.size + this.#superseded.size === 0
  }

  /** An older attempt at the same event is told that its lease is lost. */
  add(attempt: Attempt): void {
    const older = this.#attempts.get(attempt.id)
    if (older) {
      this.#superseded.add(older)
      older.abort(leaseLost())
    }
    this.#attempts.set(attempt.id, attempt)
  }

  remove(attempt: Attempt): void {
    if (!this.#superseded.delete(attempt)) this.#attempts.delete(attempt.id)
    if (this.#isEmpty) this.#emptied?.()
  }

  abortAll(abort: (attempt: Attempt) => void): void {
    for (const attempt of [...this.#attempts.values(), ...this.#superseded]) abort(attempt)
  }

  /** Resolves once there is none. Asked for again, only the last promise counts. */
  emptied(): Promise<void> {
    if (this.#isEmpty) return Promise.resolve()
    return new Promise((resolve) => {
      this.#emptied = resolve
    })
  }
}
