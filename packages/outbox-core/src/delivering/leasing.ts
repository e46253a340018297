import type { OutboxCore } from '../emitting/outbox-core.ts'
import { StorageError } from '../errors.ts'
import type { LeasedEvent, LeaseRequest, Waiting } from '../storage.ts'
import { errFields } from '../thrown.ts'
import { UnansweredError } from './attempt-errors.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { answeredWithin, Pace, Unanswered } from './deadline.ts'
import type { Taken } from './poller.ts'
import type { Registrations } from './registrations.ts'
import { RunLength } from './run-length.ts'
import { Shares } from './shares.ts'

/** Asks the database for what this worker can do. */
export class Leasing {
  readonly shares: Shares
  /** Whether the last lease may have left something waiting. */
  backlog = true
  readonly #core: OutboxCore
  readonly #registrations: Registrations
  readonly #settings: DispatcherSettings
  readonly #take: (events: readonly LeasedEvent[], leasedAt: number) => void
  readonly #unanswered: Unanswered
  readonly #pace: Pace
  readonly #runLength = new RunLength()

  /** @param take gets what was leased, and when it was asked for, by the clock's `elapsed`; also what comes late */
  constructor(
    core: OutboxCore,
    settings: DispatcherSettings,
    registrations: Registrations,
    take: (events: readonly LeasedEvent[], leasedAt: number) => void,
  ) {
    this.#core = core
    this.#registrations = registrations
    this.#settings = settings
    this.#take = take
    this.shares = new Shares(registrations)
    this.#unanswered = new Unanswered(core.clock, settings.hardDeadlineMs)
    this.#pace = new Pace(core.clock, settings.hardDeadlineMs)
  }

  /** Whether this worker has what an event there needs. */
  handles(address: string): boolean {
    return this.#registrations.has(address)
  }

  /** @throws what the database says, also to a worker that can take nothing */
  async first(wanted: number): Promise<Taken> {
    if (this.#registrations.isEmpty) await this.waiting()
    return this.#lease(wanted, this.#settings.hardDeadlineMs)
  }

  /** Never throws. */
  async next(wanted: number): Promise<Taken> {
    const { softDeadlineMs, hardDeadlineMs } = this.#settings
    try {
      // One that is not answered holds up the next for a moment only; several would pile up on a slow database.
      return await this.#lease(wanted, this.#unanswered.any ? hardDeadlineMs : softDeadlineMs)
    } catch (error) {
      const level = error instanceof StorageError || error instanceof UnansweredError ? 'warn' : 'error'
      this.#core.logger[level](errFields(error), 'lease failed, will repeat')
      return { count: 0, more: false }
    }
  }

  /** Takes a batch of what waits at an address, whether it is handled here or not. */
  async at(address: string): Promise<void> {
    const { batchSize: limit, hardDeadlineMs } = this.#settings
    await this.#ask({ limit, addresses: [{ address, limit }] }, hardDeadlineMs, () => {})
  }

  /** What there is, whether it is handled here or not. */
  waiting(deadlineMs: number = this.#settings.hardDeadlineMs): Promise<readonly Waiting[]> {
    const { clock, storage } = this.#core
    return answeredWithin(clock, this.#pace.atLeast(deadlineMs), () => storage.waiting())
  }

  /** @param deadlineMs how long it may hold up the next one */
  async #lease(wanted: number, deadlineMs: number): Promise<Taken> {
    const waiting = this.#registrations.takesOthers ? await this.waiting(deadlineMs) : []
    const addresses = this.shares.of(wanted, waiting)
    if (addresses.length === 0) return { count: 0, more: false }
    const { behind } = this.#runLength
    const events = await this.#ask({ limit: wanted, addresses, behind }, deadlineMs, (leased) => {
      this.backlog = this.shares.taken(addresses, leased, wanted)
      this.#runLength.learn(leased, behind)
    })
    return { count: events.length, more: this.backlog }
  }

  /** @param judge looks at what was leased before it is taken */
  async #ask(
    request: Omit<LeaseRequest, 'leaseMs'>,
    deadlineMs: number,
    judge: (events: readonly LeasedEvent[]) => void,
  ): Promise<readonly LeasedEvent[]> {
    const { clock, storage } = this.#core
    const { leaseMs } = this.#settings
    const leasedAt = clock.elapsed()
    const leasing = (): Promise<readonly LeasedEvent[]> =>
      this.#unanswered.count(this.#pace.timed(() => storage.lease({ ...request, leaseMs })))
    const late = (events: readonly LeasedEvent[]): void => this.#take(events, leasedAt)
    const events = await answeredWithin(clock, this.#pace.atLeast(deadlineMs), leasing, late)
    judge(events)
    this.#take(events, leasedAt)
    return events
  }
}
