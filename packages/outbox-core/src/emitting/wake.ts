import { outsideCallers } from '../async-scope.ts'
import type { Clock } from '../clock.ts'
import type { Logger } from '../logger.ts'
import type { Storage } from '../storage.ts'
import { errFields } from '../thrown.ts'

/** Called when an event was written that is due in `inMs` milliseconds. */
export type WakeListener = (inMs: number) => void

// Postgres takes a lock for each, and every process that listens gets a message: at this pace both cost next to nothing.
const ANNOUNCE_AT_MOST_EVERY_MS = 1

// One that is sent by itself may cost a commit of its own: it takes up no more than a fifth of the time.
const REST_FOR_TIMES = 4

// A user's own transaction is committed at some moment after its events were written in it.
const COMMITTED_AFTER_MS = [5, 50, 250]

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
  #unseenCommits = false

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

  /** An event was written in a transaction whose commit nobody tells of: looks for it a few times, with or without it. */
  afterUnseenCommit(inMs: number): void {
    if (inMs > 0) this.after(inMs)
    if (this.#unseenCommits) return
    this.#unseenCommits = true
    for (const [index, ms] of COMMITTED_AFTER_MS.entries()) {
      this.#clock.after(ms, () => {
        if (index === COMMITTED_AFTER_MS.length - 1) this.#unseenCommits = false
        this.after(0, { elsewhere: true })
      })
    }
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
      void outsideCallers(() => this.#announceNow())
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
      this.#logger.debug(errFields(error), 'announcing failed; other processes will poll')
    }
    this.#announcing = false
    const now = this.#clock.elapsed()
    this.#restsUntil = now + Math.max(REST_FOR_TIMES * (now - started), ANNOUNCE_AT_MOST_EVERY_MS)
    if (this.#again) this.#wait()
  }

  #wait(): void {
    if (this.#waiting || this.#announcing) return
    this.#waiting = true
    outsideCallers(() =>
      this.#clock.after(Math.max(0, this.#restsUntil - this.#clock.elapsed()), () => {
        this.#waiting = false
        if (this.#again) this.announce()
      }),
    )
  }
}
