import type { Clock } from '../clock.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import type { Logger } from '../logger.ts'
import { errFields } from '../thrown.ts'
import type { Attempt } from './attempt.ts'
import { LeaseLostError } from './attempt-errors.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { answeredWithin, Pace } from './deadline.ts'

const BATCH = 500

type HeartbeatTiming = Pick<
  DispatcherSettings,
  'heartbeatMs' | 'heartbeatDeadlineMs' | 'heartbeatRepeatMs' | 'leaseMs'
>

/** Keeps the leases of what is still being worked on, and tells handlers whose lease is gone. */
export class Heartbeat {
  readonly #core: OutboxCore
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #timing: HeartbeatTiming
  readonly #held: () => Iterable<Attempt>
  readonly #pace: Pace
  #running = false
  #failures = 0
  #cancel: (() => void) | undefined
  #beating: Promise<void> = Promise.resolve()

  constructor(core: OutboxCore, timing: HeartbeatTiming, held: () => Iterable<Attempt>) {
    this.#core = core
    this.#clock = core.clock
    this.#pace = new Pace(core.clock, timing.heartbeatMs)
    this.#logger = core.logger
    this.#timing = timing
    this.#held = held
  }

  start(): void {
    this.#running = true
    this.#next(this.#timing.heartbeatMs)
  }

  /** Resolves when the last one has been answered, or has had its time. */
  async stop(): Promise<void> {
    this.#running = false
    this.#cancel?.()
    await this.#beating
  }

  #next(inMs: number): void {
    this.#cancel = this.#clock.after(inMs, () => {
      this.#beating = this.#beat().then((kept) => {
        this.#failures = kept ? 0 : this.#failures + 1
        if (this.#running) this.#next(kept ? this.#timing.heartbeatMs : this.#soonerMs())
      })
    })
  }

  // While the leases still have some time, then ever more slowly: a database that is down is not helped by being asked.
  #soonerMs(): number {
    const { heartbeatMs, heartbeatRepeatMs } = this.#timing
    return Math.min(heartbeatMs, heartbeatRepeatMs * 2 ** (this.#failures - 1))
  }

  /** Whether every lease was looked after. */
  async #beat(): Promise<boolean> {
    const stale = this.#stale()
    const batches: Promise<boolean>[] = []
    for (let from = 0; from < stale.length; from += BATCH) {
      batches.push(this.#extend(stale.slice(from, from + BATCH)))
    }
    return (await Promise.all(batches)).every((kept) => kept)
  }

  #stale(): readonly Attempt[] {
    const since = this.#clock.elapsed() - this.#timing.heartbeatMs / 2
    return [...this.#held()].filter(({ leasedAt }) => leasedAt <= since)
  }

  async #extend(attempts: readonly Attempt[]): Promise<boolean> {
    const now = this.#clock.elapsed()
    const leases = attempts.map(({ leased: { id, attempt } }) => ({ id, attempt }))
    const extended = (gone: readonly string[]): void => {
      const lost = new Set(gone)
      for (const attempt of attempts) {
        if (lost.has(attempt.id)) attempt.abort(leaseLost())
        else attempt.leasedAt = Math.max(attempt.leasedAt, now)
      }
    }
    try {
      const extending = answeredWithin(
        this.#clock,
        this.#pace.atLeast(this.#timing.heartbeatDeadlineMs),
        () => this.#pace.timed(() => this.#core.storage.extend(leases, this.#timing.leaseMs)),
        extended,
      )
      extended(await extending)
      return true
    } catch (error) {
      this.#logger.warn(errFields(error), 'heartbeat failed, will repeat')
      return false
    }
  }
}

export function leaseLost(): LeaseLostError {
  return new LeaseLostError('the lease ran out and was taken again')
}
