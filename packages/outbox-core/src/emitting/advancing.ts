import { outsideCallers } from '../async-scope.ts'
import type { Clock } from '../clock.ts'
import type { Logger } from '../logger.ts'
import type { Storage } from '../storage.ts'
import { errFields } from '../thrown.ts'
import type { Wake } from './wake.ts'

const FIRST_PAUSE_MS = 5
const LONGEST_PAUSE_MS = 1_000

// The net finds the rest.
const MOST_KEYS = 10_000

const KEYS_AT_ONCE = 200

// Some seconds: no process is kept from ending by a transaction that somebody has forgotten.
const MOST_ROUNDS = 20

/**
 * Goes after keys of which a settlement could not tell whether another event waits in them: an open transaction may have
 * written one, which saw the settled event before it. Asks until that transaction has ended.
 */
export class Advancing {
  readonly #storage: Pick<Storage<never>, 'advance'>
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #wake: Pick<Wake, 'after'>
  readonly #unsure = new Set<string>()
  #rounds = 0
  #running = false

  constructor(
    storage: Pick<Storage<never>, 'advance'>,
    ground: { readonly clock: Clock; readonly logger: Logger },
    wake: Pick<Wake, 'after'>,
  ) {
    this.#storage = storage
    this.#clock = ground.clock
    this.#logger = ground.logger
    this.#wake = wake
  }

  /** Keys in which another event may wait. */
  ask(keys: readonly string[]): void {
    if (!this.#storage.advance || keys.length === 0) return
    for (const key of keys) if (this.#unsure.size < MOST_KEYS) this.#unsure.add(key)
    this.#rounds = 0
    if (this.#running) return
    this.#running = true
    void outsideCallers(() => this.#run())
  }

  /** The net: looks at every key, in bounded steps. */
  async sweep(): Promise<void> {
    this.ask(await this.#advance())
  }

  async #run(): Promise<void> {
    while (this.#unsure.size > 0 && this.#rounds < MOST_ROUNDS) {
      const keys = [...this.#unsure].slice(0, KEYS_AT_ONCE)
      for (const key of keys) this.#unsure.delete(key)
      const busy = await this.#advance(keys)
      for (const key of busy) this.#unsure.add(key)
      if (busy.length > 0) await this.#pause()
    }
    this.#unsure.clear()
    this.#running = false
  }

  /** @returns the keys to ask about again */
  async #advance(keys?: readonly string[]): Promise<readonly string[]> {
    try {
      const { events, busy } = (await this.#storage.advance?.(keys)) ?? { events: 0, busy: [] }
      if (events > 0) this.#wake.after(0, { elsewhere: true })
      return busy
    } catch (error) {
      this.#logger.debug(errFields(error), 'keys not looked at, will repeat')
      return keys ?? []
    }
  }

  #pause(): Promise<void> {
    const ms = Math.min(FIRST_PAUSE_MS * 2 ** this.#rounds++, LONGEST_PAUSE_MS)
    return new Promise((resolve) => this.#clock.after(ms, resolve))
  }
}
