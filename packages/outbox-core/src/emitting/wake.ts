import type { Clock } from '../clock.ts'
import { toError } from '../errors.ts'
import { errorFields, type Logger } from '../logger.ts'
import type { Storage } from '../storage.ts'

/** Called when an event was written that is due in `inMs` milliseconds. */
export type WakeListener = (inMs: number) => void

// Postgres takes a lock for each, and every process that listens gets a message: at this pace both cost next to nothing.
const ANNOUNCE_AT_MOST_EVERY_MS = 1

// One that is sent by itself may cost a commit of its own: it takes up no more than a fifth of the time.
const REST_FOR_TIMES = 4

/** Tells the dispatchers of this process, and through the database those of others, that there is work. */
export class Wake {
  readonly #storage: Pick<Storage<never>, 'announce'>
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #listeners = new Set<WakeListener>()
  /** By the clock's `elapsed`. */
  #restsUntil = Number.NEGATIVE_INFINITY
  #announcing = false
  #waiting = false
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
    if (elsewhere && inMs <= 0) this.announce()
  }

  /**
   * Whether a write that is about to be sent shall carry an announcement, for itself and for what was written before
   * it. For those `announce` is to be called when the write fails.
   */
  takeTurn(): boolean {
    const now = this.#clock.elapsed()
    if (!this.#storage.announce || this.#announcing || now < this.#restsUntil) return false
    this.#restsUntil = now + ANNOUNCE_AT_MOST_EVERY_MS
    this.#again = false
    return true
  }

  /** Tells other processes, now or as soon as it may. */
  announce(): void {
    if (!this.#storage.announce) return
    if (this.takeTurn()) {
      void this.#announceNow()
    } else {
      this.#again = true
      this.#wait()
    }
  }

  async #announceNow(): Promise<void> {
    const started = this.#clock.elapsed()
    this.#announcing = true
    try {
      await this.#storage.announce?.()
    } catch (error) {
      const fields = { error: errorFields(toError(error)) }
      this.#logger.debug(fields, 'announcing failed; other processes will poll')
    }
    this.#announcing = false
    const now = this.#clock.elapsed()
    this.#restsUntil = now + Math.max(REST_FOR_TIMES * (now - started), ANNOUNCE_AT_MOST_EVERY_MS)
    if (this.#again) this.#wait()
  }

  #wait(): void {
    if (this.#waiting || this.#announcing) return
    this.#waiting = true
    this.#clock.after(Math.max(0, this.#restsUntil - this.#clock.elapsed()), () => {
      this.#waiting = false
      if (this.#again) this.announce()
    })
  }
}
