import type { Clock } from '../clock.ts'
import { isPassing } from '../emitting/batching.ts'
import type { Logger } from '../logger.ts'
import type { Storage } from '../storage.ts'
import { errFields } from '../thrown.ts'
import { UnansweredError } from './attempt-errors.ts'
import { answeredWithin } from './deadline.ts'

const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 30_000

type End = () => Promise<void>

/** Has other processes wake this one for as long as it runs: a subscription that is lost is made again. */
export class Listening {
  readonly #storage: Pick<Storage<never>, 'listen'>
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #deadlineMs: number
  readonly #wake: () => void
  #stopped = false
  #lost = false
  #pauseMs = FIRST_PAUSE_MS
  #end: End | undefined
  #cancel: (() => void) | undefined

  /**
   * @param deadlineMs how long one attempt may take
   * @param wake called for every notification, and after each time that some may have been missed
   */
  constructor(
    core: {
      readonly storage: Pick<Storage<never>, 'listen'>
      readonly clock: Clock
      readonly logger: Logger
    },
    deadlineMs: number,
    wake: () => void,
  ) {
    this.#storage = core.storage
    this.#clock = core.clock
    this.#logger = core.logger
    this.#deadlineMs = deadlineMs
    this.#wake = wake
  }

  /** Makes one attempt; never fails: polling finds what nobody tells of. */
  async start(): Promise<void> {
    if (!this.#storage.listen) return
    try {
      await this.#listen()
    } catch (error) {
      this.#failed(error)
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#cancel?.()
    await this.#end?.().catch((error: unknown) => this.#logger.warn(errFields(error), 'listening not ended'))
  }

  async #listen(): Promise<void> {
    // One subscription is lost once, whatever it says afterwards.
    let current = true
    const lost = (error: unknown): void => {
      if (!current || this.#stopped) return
      current = false
      this.#end = undefined
      this.#failed(error)
    }
    const listening = async (): Promise<End> => (await this.#storage.listen?.(this.#wake, lost)) ?? nothing
    const late = (end: End): void => void end().catch(() => {})
    try {
      const end = await answeredWithin(this.#clock, this.#deadlineMs, listening, late)
      if (!current || this.#stopped) late(end)
      else this.#listens(end)
    } catch (error) {
      current = false
      throw error
    }
  }

  #listens(end: End): void {
    this.#end = end
    this.#pauseMs = FIRST_PAUSE_MS
    if (!this.#lost) return
    this.#lost = false
    this.#logger.info({}, 'other processes wake this one again')
    this.#wake()
  }

  #failed(error: unknown): void {
    if (this.#stopped) return
    const again = error instanceof UnansweredError || isPassing(error)
    if (!this.#lost) {
      const next = again ? 'until they can again' : 'from now on'
      this.#logger.warn(
        errFields(error),
        `other processes can’t wake this one; polling finds their events ${next}`,
      )
    }
    this.#lost = true
    if (!again) return
    this.#cancel = this.#clock.after(this.#pauseMs, () => void this.start())
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS)
  }
}

const nothing: End = async () => {}
