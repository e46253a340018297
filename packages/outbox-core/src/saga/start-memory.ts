import type { Attempt } from '../delivering/attempt.ts'
import { answeredWithin } from '../delivering/deadline.ts'
import { START_KEPT_HEADER } from '../emitting/event.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import type { Headers } from '../storage.ts'
import { errFields } from '../thrown.ts'

const NO_HEADERS: Headers = {}

/**
 * Remembers that a slip with an id of its own was started: by the event that started it, kept as completed for as long
 * as the slip runs, and for the store's time to live in any case.
 */
export class StartMemory {
  readonly #engine: string
  readonly #core: OutboxCore
  readonly #ttlMs: number
  readonly #deadlineMs: number

  /** @param deadlineMs how long the database may take to keep a start longer */
  constructor(engine: string, core: OutboxCore, ttlMs: number, deadlineMs: number) {
    this.#engine = engine
    this.#core = core
    this.#ttlMs = ttlMs
    this.#deadlineMs = deadlineMs
  }

  /** The id of the event that starts a slip. */
  eventId(slipId: string): string {
    return `${this.#engine}/${slipId}`
  }

  /** Keeps the start for as long as the next step may take, and says until when in the next step's headers. */
  keep(attempt: Attempt, slipId: string): Headers | Promise<Headers> {
    const now = attempt.databaseNow(this.#core.clock.elapsed())
    if (attempt.id === this.eventId(slipId)) {
      attempt.keepMs = Math.max(attempt.keepMs, this.#ttlMs)
      return { [START_KEPT_HEADER]: String(Math.round(now + attempt.keepMs)) }
    }
    const kept = attempt.headers[START_KEPT_HEADER]
    if (kept === undefined) return NO_HEADERS
    return this.#renewed(slipId, Number(kept), now, 0).then((until) => ({
      [START_KEPT_HEADER]: String(Math.round(until)),
    }))
  }

  /** Keeps the start over a wait before the next attempt. */
  async outlast(attempt: Attempt, waitMs: number): Promise<void> {
    const kept = attempt.headers[START_KEPT_HEADER]
    const slipId = attempt.routingSlipId
    if (kept === undefined || slipId === undefined) return
    await this.#renewed(slipId, Number(kept), attempt.databaseNow(this.#core.clock.elapsed()), waitMs)
  }

  async #renewed(slipId: string, kept: number, now: number, waitMs: number): Promise<number> {
    if (kept - now >= waitMs + this.#ttlMs / 2) return kept
    const keepMs = waitMs + this.#ttlMs
    const { clock, storage } = this.#core
    try {
      await answeredWithin(clock, this.#deadlineMs, () => storage.keep(this.eventId(slipId), keepMs))
      return now + keepMs
    } catch (error) {
      this.#core.logger.warn(
        { routingSlipId: slipId, ...errFields(error) },
        'the start of a slip is not kept longer',
      )
      return kept
    }
  }
}
