import { changeBy, keyYielded, type LeaseRequest, type Outcome } from 'outbox-core'

const FIRST_MS = 10

// No longer than a user would notice.
const LONGEST_MS = 100

type Share = LeaseRequest['addresses'][number]

/**
 * Addresses at which nothing was due a moment ago. Each costs a request for each of its partitions whenever it is asked: a
 * worker with many of them, of which one has much to do, would ask all the others in vain, again and again.
 */
export class Quiet {
  readonly #addresses = new Map<string, { readonly until: number; readonly pauseMs: number }>()

  asked(addresses: readonly Share[], now: number): readonly Share[] {
    return addresses.filter(({ address }) => {
      const { until = now } = this.#addresses.get(address) ?? {}
      // Further away than that after the clock was set back.
      return until <= now || until > now + LONGEST_MS
    })
  }

  /** What was asked, and where something was due. */
  found(asked: readonly Share[], due: ReadonlySet<string>, now: number): void {
    for (const { address } of asked) {
      const { pauseMs = FIRST_MS / 2 } = this.#addresses.get(address) ?? {}
      const pause = Math.min(pauseMs * 2, LONGEST_MS)
      if (due.has(address)) this.#addresses.delete(address)
      else this.#addresses.set(address, { until: now + pause, pauseMs: pause })
    }
  }

  /** Something may be due at these addresses. */
  stirred(addresses: Iterable<string>): void {
    for (const address of addresses) this.#addresses.delete(address)
  }

  /** Something was written by this process. */
  written(outcomes: readonly Outcome[]): void {
    for (const { settle, append } of outcomes) {
      this.stirred(append.map(({ address }) => address))
      const opens = settle !== undefined && changeBy(settle).to === 'waiting'
      // It does not say where its event goes, or the one behind it.
      if (opens || keyYielded(settle) !== undefined) this.#addresses.clear()
    }
  }

  /** Something of which nothing is known was written. */
  forget(): void {
    this.#addresses.clear()
  }
}
