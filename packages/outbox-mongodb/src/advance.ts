import type { Advanced } from 'outbox-core'
import type { MongoClientLike, MongoSession } from './client.ts'
import { hasCode, mapped } from './errors.ts'
import type { Keys } from './keys.ts'
import { MAJORITY, transact, within } from './transaction.ts'

// Of the net: as many keys as one statement looks at, and as many of those as one call takes.
const KEYS_PER_STEP = 1_000
const STEPS = 10

// Alone only where another transaction is in the way, and then beside the workers' own statements.
const AT_ONCE = 4

const WRITE_CONFLICT = 112

/**
 * Lets keys go on whose last event was settled while a transaction that had appended to them was open: what that has
 * committed since is blocked, and nothing is before it.
 */
export class Advancing<Session extends MongoSession> {
  readonly #client: MongoClientLike<Session>
  readonly #keys: Keys
  #walkedTo: string | undefined

  constructor(client: MongoClientLike<Session>, keys: Keys) {
    this.#client = client
    this.#keys = keys
  }

  async advance(keys: readonly string[]): Promise<Advanced> {
    if (keys.length === 0) return { events: 0, busy: [] }
    const firsts = await mapped(this.#keys.firsts(keys, {}))
    const events = await mapped(this.#keys.unblock(firsts, MAJORITY))
    // Whatever comes to a key that has an event lets go on who settles that.
    const occupied = new Set(firsts.map(({ key }) => key))
    const empty = keys.filter((key) => !occupied.has(key))
    return { events, busy: await this.#forget(empty) }
  }

  /** The next of all keys that are known, from where the call before has left off. */
  async walk(): Promise<Advanced> {
    let events = 0
    const busy: string[] = []
    for (let step = 0; step < STEPS; step++) {
      const keys = await mapped(this.#keys.known(this.#walkedTo, KEYS_PER_STEP))
      const found = await this.advance(keys)
      events += found.events
      busy.push(...found.busy)
      this.#walkedTo = keys.length < KEYS_PER_STEP ? undefined : keys.at(-1)
      if (this.#walkedTo === undefined) break
    }
    return { events, busy }
  }

  /** Returns those in which a transaction writes, or has written just now. */
  async #forget(keys: readonly string[]): Promise<readonly string[]> {
    if (keys.length === 0) return []
    const busy = await this.#forgetTogether(keys)
    if (busy || keys.length === 1) return busy ?? keys
    const left = [...keys]
    const alone: string[] = []
    const one = async (): Promise<void> => {
      for (let key = left.pop(); key !== undefined; key = left.pop()) {
        alone.push(...((await this.#forgetTogether([key])) ?? [key]))
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, one))
    return alone
  }

  /**
   * Returns those that have an event again.
   *
   * @returns undefined when another transaction writes in one of them
   */
  async #forgetTogether(keys: readonly string[]): Promise<readonly string[] | undefined> {
    return transact(this.#client, async (session) => {
      try {
        const firsts = await this.#keys.firsts(keys, within(session))
        const occupied = new Set(firsts.map(({ key }) => key))
        const empty = keys.filter((key) => !occupied.has(key))
        if (empty.length > 0) await this.#keys.forget(empty, within(session))
        return [...occupied]
      } catch (error) {
        if (!hasCode(error, WRITE_CONFLICT)) return mapped(Promise.reject(error))
        await mapped(session.abortTransaction())
        return undefined
      }
    })
  }
}
