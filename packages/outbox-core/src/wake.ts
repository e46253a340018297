import type { Clock } from './clock.ts'
import { toError } from './errors.ts'
import { errorFields, type Logger } from './logger.ts'
import type { Storage } from './storage.ts'

/** Called when an event was written that is due in `inMs` milliseconds. */
export type WakeListener = (inMs: number) => void

// Inside every write an announcement would cost several times the write; at this pace it costs next to nothing.
const ANNOUNCE_AT_MOST_EVERY_MS = 2

// One that is sent by itself may cost a commit of its own: it takes up no more than a fifth of the time.
const REST_FOR_TIMES = 4

/** Tells the dispatchers of this process, and through the database those of others, that there is work. */
export class Wake {
  readonly #storage: Pick<Storage<never>, 'announce'>
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #listeners = new Set<WakeListener>()
  #resting = false
  #again = false

  constructor(storage: Pick<Storage<never>, 'announce'>, clock: Clock, logger: Logger) {
    this.#storage = storage
    this.#clock = clock
    this.#logger = logger
  }

  subscribe(listener: WakeListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** An event was written; `elsewhere` when other processes are to know and have not been told with the write. */
  after(inMs: number, { elsewhere = false }: { readonly elsewhere?: boolean } = {}): void {
    for (const listener of this.#listeners) listener(inMs)
    if (elsewhere && inMs <= 0 && this.#storage.announce) void this.#announce()
  }

  /** Whether a write that is about to be sent shall carry an announcement. */
  takeTurn(): boolean {
    if (!this.#storage.announce || this.#resting) return false
    this.#rest()
    return true
  }

  async #announce(): Promise<void> {
    if (this.#resting) {
      this.#again = true
      return
    }
    this.#resting = true
    const started = this.#clock.elapsed()
    try {
      await this.#storage.announce?.()
    } catch (error) {
      const fields = { error: errorFields(toError(error)) }
      this.#logger.debug(fields, 'announcing failed; other processes will poll')
    }
    this.#rest(REST_FOR_TIMES * (this.#clock.elapsed() - started))
  }

  #rest(ms = 0): void {
    this.#resting = true
    this.#clock.after(Math.max(ms, ANNOUNCE_AT_MOST_EVERY_MS), () => {
      this.#resting = false
      if (!this.#again) return
      this.#again = false
      void this.#announce()
    })
  }
}
