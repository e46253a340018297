import type { Clock } from '../clock.ts'
import { isPassing } from '../emitting/batching.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import { StorageError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { LeasedEvent, Outcome, OutcomeResult, PayloadRecord } from '../storage.ts'
import { errFields } from '../thrown.ts'
import { Attempt } from './attempt.ts'
import { StoppingError, UnansweredError } from './attempt-errors.ts'
import { BatchSize } from './batch-size.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { leasedBy, leasingOn } from './continuing.ts'
import { answeredWithin, Pace, Unanswered } from './deadline.ts'
import type { Handling } from './handling.ts'
import { Heartbeat, leaseLost } from './heartbeat.ts'
import { Listening } from './listening.ts'
import { released } from './outcomes.ts'
import { Poller, type Taken } from './poller.ts'
import { Purger } from './purger.ts'
import { type Finished, Settler } from './settler.ts'

// How long handlers may still take after their signal was aborted.
const GRACE_MS = 1_000

// How long `stop` waits beyond that for a database that does not answer.
const UNANSWERED_MS = 5_000

/** Takes due events in batches, has them handled with bounded concurrency, and has their outcomes written. */
export class Dispatcher {
  readonly #core: OutboxCore
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #settings: DispatcherSettings
  readonly #handling: Handling
  readonly #settler: Settler
  readonly #heartbeat: Heartbeat
  readonly #purger: Purger
  readonly #listening: Listening
  readonly #completed: (attempt: Attempt) => void
  /** Everything leased here and not yet settled, the latest attempt at each event. */
  readonly #held = new Map<string, Attempt>()
  /** Older attempts at events that were leased here again. */
  readonly #superseded = new Set<Attempt>()
  readonly #queue: Attempt[] = []
  readonly #poller: Poller
  readonly #batchSize: BatchSize
  /** Whether the last lease may have left something waiting. */
  #backlog = true
  readonly #unanswered: Unanswered
  readonly #pace: Pace
  #active = 0
  #stopping = false
  #starting: Promise<void> = Promise.resolve()
  #allSettled: (() => void) | undefined
  #unsubscribe: (() => void) | undefined

  constructor(parts: {
    core: OutboxCore
    settings: DispatcherSettings
    handling: Handling
    completed: (attempt: Attempt) => void
  }) {
    const { core, settings, handling } = parts
    this.#core = core
    this.#clock = core.clock
    this.#logger = core.logger
    this.#settings = settings
    this.#handling = handling
    this.#completed = parts.completed
    this.#batchSize = new BatchSize(settings.concurrency, settings.batchSize)
    this.#settler = new Settler(core, settings, {
      buried: (attempt, error) => handling.buried(attempt, error),
      settled: (...settled) => this.#settled(...settled),
      roomMade: () => this.#poller.offerRoom(),
    })
    this.#heartbeat = new Heartbeat(core, settings, () => this.#lookedAfter())
    this.#purger = new Purger(core, settings)
    this.#listening = new Listening(core, settings.hardDeadlineMs, () => this.#poller.wakeIn(0))
    this.#unanswered = new Unanswered(this.#clock, settings.hardDeadlineMs)
    this.#pace = new Pace(this.#clock, settings.hardDeadlineMs)
    this.#poller = new Poller(this.#clock, settings, {
      full: () => this.#full(),
      lease: () => this.#leaseOrLog(),
    })
  }

  /** @throws what the first lease throws, unless it is a failure that may pass by itself. */
  start(): Promise<void> {
    this.#starting = this.#start()
    return this.#starting
  }

  async #start(): Promise<void> {
    try {
      await this.#lease(this.#settings.hardDeadlineMs)
    } catch (error) {
      const passes = error instanceof UnansweredError || isPassing(error)
      if (!passes) throw error
      this.#logger.warn(errFields(error), 'the database is not there yet; polling until it is')
    }
    if (this.#stopping) return
    this.#heartbeat.start()
    this.#unsubscribe = this.#core.wake.subscribe((inMs) => this.#poller.wakeIn(inMs))
    await this.#listening.start()
    if (this.#stopping) return
    this.#purger.start()
    this.#poller.start()
  }

  /** Takes nothing new, waits for what runs, then aborts it, and gives back every lease that the database lets it. */
  async stop(drainMs: number): Promise<void> {
    this.#stopping = true
    if (await this.#within(drainMs + 2 * GRACE_MS + UNANSWERED_MS, this.#end(drainMs))) return
    this.#settler.abandon()
    void this.#heartbeat.stop()
    this.#logger.error({ held: this.#held.size }, 'the database does not answer; the leases will run out')
  }

  async #end(drainMs: number): Promise<void> {
    // Whatever it failed with has been told to whoever started.
    await this.#starting.catch(() => {})
    this.#unsubscribe?.()
    await Promise.all([this.#poller.stop(), this.#purger.stop(), this.#listening.stop()])
    this.#releaseQueue()
    if (!(await this.#emptied(drainMs))) {
      const reason = new StoppingError('the bus is stopping')
      this.#abortAll((attempt) => attempt.abort(reason, { wait: true }))
      if (!(await this.#emptied(GRACE_MS))) {
        this.#abortAll((attempt) => attempt.abort(reason))
        this.#settler.abandon()
        // What was aborted is still on its way to the settler.
        await this.#emptied(GRACE_MS)
      }
    }
    await this.#settler.drained()
    await this.#heartbeat.stop()
  }

  async #leaseOrLog(): Promise<Taken> {
    const { softDeadlineMs, hardDeadlineMs } = this.#settings
    try {
      // One that is not answered holds up the next for a moment only; several would pile up on a slow database.
      return await this.#lease(this.#unanswered.any ? hardDeadlineMs : softDeadlineMs)
    } catch (error) {
      const level = error instanceof StorageError || error instanceof UnansweredError ? 'warn' : 'error'
      this.#logger[level](errFields(error), 'lease failed, will repeat')
      return { count: 0, more: false }
    }
  }

  /** @param deadlineMs how long it may hold up the next one */
  async #lease(deadlineMs: number): Promise<Taken> {
    const leasedAt = this.#clock.elapsed()
    const wanted = this.#batchSize.current
    const leasing = (): Promise<readonly LeasedEvent[]> =>
      this.#unanswered.count(this.#pace.timed(() => this.#core.storage.lease(wanted, this.#settings.leaseMs)))
    const late = (events: readonly LeasedEvent[]): void => this.#take(events, leasedAt)
    const events = await answeredWithin(this.#clock, this.#pace.atLeast(deadlineMs), leasing, late)
    this.#backlog = events.length === wanted
    if (events.length > 0 && this.#queue.length === 0) this.#batchSize.begin(leasedAt)
    this.#take(events, leasedAt)
    return { count: events.length, more: this.#backlog }
  }

  #take(events: readonly LeasedEvent[], leasedAt: number): void {
    // An answer so late may be about leases that others have by now.
    if (this.#clock.elapsed() - leasedAt >= this.#settings.leaseMs) return
    for (const leased of events) {
      this.#accept(leased, leasedAt)
      this.#batchSize.add(leased.body.length)
    }
    if (this.#stopping) this.#releaseQueue()
    else this.#startMore()
  }

  #accept(leased: LeasedEvent, leasedAt: number, carried: readonly PayloadRecord[] = []): void {
    const attempt = new Attempt(leased, this.#logger, leasedAt, this.#settings.retentionMs)
    attempt.carried = carried
    const older = this.#held.get(attempt.id)
    if (older) {
      this.#superseded.add(older)
      older.abort(leaseLost())
    }
    this.#held.set(attempt.id, attempt)
    this.#queue.push(attempt)
  }

  #releaseQueue(): void {
    for (const attempt of this.#queue.splice(0)) this.#release(attempt)
  }

  #release(attempt: Attempt): void {
    this.#settler.add({ attempt, outcome: released(attempt) })
  }

  /** What needs its lease kept; what could not be begun within a heartbeat is for workers that have room. */
  #lookedAfter(): Iterable<Attempt> {
    const unbegun = this.#clock.elapsed() - this.#settings.heartbeatMs
    while (this.#queue[0] && this.#queue[0].since <= unbegun && this.#active > 0) {
      this.#release(this.#queue.shift() as Attempt)
    }
    return this.#held.values()
  }

  #startMore(): void {
    while (this.#active < this.#settings.concurrency && !this.#stopping) {
      const attempt = this.#queue.shift()
      if (!attempt) return
      if (this.#queue.length === 0) this.#batchSize.end(this.#clock.elapsed())
      void this.#run(attempt)
    }
  }

  async #run(attempt: Attempt): Promise<void> {
    this.#active++
    let active = true
    const rest = (): void => {
      if (!active) return
      active = false
      this.#active--
    }
    attempt.onWaiting = () => {
      rest()
      this.#startMore()
    }
    const outcome = await this.#handling.outcome(attempt)
    rest()
    this.#settler.add({ attempt, outcome: this.#goingOn(outcome) })
    this.#startMore()
    this.#poller.offerRoom()
  }

  // Not past what has waited for longer: then it is leased in its turn, with many others at once.
  #goingOn(outcome: Outcome): Outcome {
    const room = !this.#stopping && !this.#backlog && !this.#full()
    if (!room || outcome.append.length > this.#batchSize.current) return outcome
    return leasingOn(outcome, this.#settings.leaseMs, (type) => this.#handling.handles(type))
  }

  #full(): boolean {
    const { current } = this.#batchSize
    const { concurrency, batchSize } = this.#settings
    const { aside } = this.#settler
    // What was set aside holds up nobody, as long as it is not everything.
    if (aside > batchSize * 4) return true
    return (
      this.#queue.length > current / 2 ||
      this.#held.size - aside > Math.max(current * 2, current + concurrency)
    )
  }

  #settled({ attempt, outcome }: Finished, result: OutcomeResult, writingSince: number): void {
    if (result.status === 'applied') this.#goOn(attempt, outcome, writingSince)
    if (!this.#superseded.delete(attempt)) this.#held.delete(attempt.id)
    if (this.#isEmpty()) this.#allSettled?.()
    if (result.status === 'applied' && outcome.settle?.kind === 'complete') this.#completed(attempt)
    this.#poller.offerRoom()
  }

  #goOn(attempt: Attempt, outcome: Outcome, leasedAt: number): void {
    const events = leasedBy(outcome, attempt.databaseNow(leasedAt))
    if (events.length === 0) return
    for (const event of events) this.#accept(event, leasedAt, outcome.put)
    if (this.#stopping) this.#releaseQueue()
    else this.#startMore()
  }

  #isEmpty(): boolean {
    return this.#held.size + this.#superseded.size === 0
  }

  #abortAll(abort: (attempt: Attempt) => void): void {
    for (const attempt of [...this.#held.values(), ...this.#superseded]) abort(attempt)
  }

  /** Whether everything leased was settled within `ms`. */
  async #emptied(ms: number): Promise<boolean> {
    if (this.#isEmpty()) return true
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#allSettled = resolve
    return this.#within(ms, promise)
  }

  /** Whether `work` ended within `ms`. */
  #within(ms: number, work: Promise<void>): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const cancel = this.#clock.after(ms, () => resolve(false))
      work.then(() => resolve(true), reject).finally(cancel)
    })
  }
}
