import { addressedTo } from '../emitting/address.ts'
import type { LeasedEvent, LeaseRequest, Waiting } from '../storage.ts'
import type { Registrations } from './registrations.ts'

type Share = LeaseRequest['addresses'][number]

// So few addresses may each fill a whole batch: what a lease looks at stays small all the same.
const FEW = 8

// Of so many times the batch, all addresses together.
const MOST_BATCHES = 4

/**
 * How many events of each address a lease asks for. Of many addresses each has a small share at first, twice as much
 * whenever it was filled, so that a lease looks at little, and a backlog of one address still fills whole batches.
 */
export class Shares {
  readonly #registrations: Registrations
  readonly #filled = new Map<string, number>()
  readonly #held = new Map<string, number>()

  constructor(registrations: Registrations) {
    this.#registrations = registrations
  }

  /**
   * What to ask for; nothing when this worker can take nothing.
   *
   * @param waiting the addresses that there are, where this worker takes others than those that it has handlers for
   */
  of(limit: number, waiting: readonly Waiting[] = []): readonly Share[] {
    const others = waiting.map(({ address }) => address).filter((address) => this.#isOther(address))
    return this.#shares([...new Set([...this.#registrations.addresses, ...others])], limit)
  }

  /** Whether a lease may have left something waiting. */
  taken(asked: readonly Share[], events: readonly LeasedEvent[], limit: number): boolean {
    const counts = new Map<string, number>()
    for (const { address } of events) counts.set(address, (counts.get(address) ?? 0) + 1)
    const filled = asked.filter((share) => counts.get(share.address) === share.limit)
    this.#filled.clear()
    for (const share of filled) this.#filled.set(share.address, share.limit * 2)
    return events.length >= limit || filled.some(({ address }) => this.takes(address))
  }

  /** Whether the worker may have one more of them. */
  takes(address: string): boolean {
    const registration = this.#registrations.get(address)
    return registration !== undefined && (this.#held.get(address) ?? 0) < this.#most(address)
  }

  hold(address: string): void {
    this.#held.set(address, (this.#held.get(address) ?? 0) + 1)
  }

  /** @returns whether there is room where there was none */
  letGo(address: string): boolean {
    const held = (this.#held.get(address) ?? 1) - 1
    if (held === 0) this.#held.delete(address)
    else this.#held.set(address, held)
    return held + 1 === this.#most(address)
  }

  #isOther(address: string): boolean {
    return addressedTo(address) === undefined && this.#registrations.has(address)
  }

  #most(address: string): number {
    return this.#registrations.get(address)?.concurrency ?? Number.POSITIVE_INFINITY
  }

  #shares(addresses: readonly string[], limit: number): readonly Share[] {
    const open = addresses.filter((address) => this.takes(address))
    const least = open.length <= FEW ? limit : Math.ceil(limit / open.length)
    const busy = open.filter((address) => this.#filled.has(address)).length
    const most = Math.max(least, Math.min(limit, Math.ceil((limit * MOST_BATCHES) / Math.max(1, busy))))
    return open.map((address) => {
      const share = Math.min(Math.max(least, this.#filled.get(address) ?? 0), most)
      return { address, limit: Math.min(share, this.#most(address) - (this.#held.get(address) ?? 0)) }
    })
  }
}
