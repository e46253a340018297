import type { Clock } from './clock.ts'
import { toError } from './errors.ts'
import { errorFields, type Logger } from './logger.ts'
import type { Storage } from './storage.ts'

/** Called when an event was written that is due in `inMs` milliseconds. */
export type WakeListener = (inMs: number) => void

// Inside every write an announcement would cost several times the write; at this pace it costs nothing.
const ANNOUNCE_AT_MOST_EVERY_MS = 5

/** Tells the dispatchers of this process, and through the database those of others, that there is work. */
export class Wake {
  readonly #storage: Pick<Storage<never>, 'announce'>
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #listeners = new Set<WakeListener>()
  #announcing = false
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

  after(inMs: number, { elsewhere = false }: { readonly elsewhere?: boolean } = {}): void {
    for (const listener of this.#listeners) listener(inMs)
    if (elsewhere && inMs <= 0 && this.#storage.announce)
      this.#announce(this.#storage.announce.bind(this.#storage))
  }

  #announce(announce: () => Promise<void>): void {
    if (this.#announcing) {
      this.#again = true
      return
    }
    this.#announcing = true
    announce()
      .catch((error) => {
        this.#logger.debug(
          { error: errorFields(toError(error)) },
          'announcing failed; other processes will poll',
        )
      })
      .finally(() => this.#clock.after(ANNOUNCE_AT_MOST_EVERY_MS, () => this.#rested(announce)))
  }

  #rested(announce: () => Promise<void>): void {
    this.#announcing = false
    if (!this.#again) return
    this.#again = false
    this.#announce(announce)
  }
}
