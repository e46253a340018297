import { type Clock, endsWithin } from '../clock.ts'
import { isPassing } from '../emitting/batching.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import type { Logger } from '../logger.ts'
import type { LeasedEvent, Outcome, OutcomeResult, PayloadRecord, SettlementOf } from '../storage.ts'
import { errFields } from '../thrown.ts'
import { Attempt } from './attempt.ts'
import { StoppingError, UnansweredError } from './attempt-errors.ts'
import { BatchSize } from './batch-size.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { leasedBy, leasingOn } from './continuing.ts'
import type { Handling } from './handling.ts'
import { Heartbeat } from './heartbeat.ts'
import { Held } from './held.ts'
import { KeyRun, type Ran } from './key-run.ts'
import { Leasing } from './leasing.ts'
import { Listening } from './listening.ts'
import { released } from './outcomes.ts'
import { Poller } from './poller.ts'
import { Purger } from './purger.ts'
import type { Registrations } from './registrations.ts'
import { type Finished, Settler } from './settler.ts'
import { Unhandled } from './unhandled.ts'

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
  readonly #unhandled: Unhandled
  readonly #listening: Listening
  readonly #completed: (attempt: Attempt) => void
  readonly #held = new Held()
  readonly #queue: Attempt[] = []
  readonly #poller: Poller
  readonly #batchSize: BatchSize
  readonly #leasing: Leasing
  readonly #keyRun: KeyRun
  readonly #ran = new WeakMap<Attempt, Ran>()
  #active = 0
  #stopping = false
  #starting: Promise<void> = Promise.resolve()
  #unsubscribe: (() => void) | undefined

  constructor(parts: {
    core: OutboxCore
    settings: DispatcherSettings
    handling: Handling
    registrations: Registrations
    completed: (attempt: Attempt) => void
  }) {
    const { core, settings, handling, registrations } = parts
    this.#core = core
    this.#clock = core.clock
    this.#logger = core.logger
    this.#settings = settings
    this.#handling = handling
    this.#completed = parts.completed
    this.#batchSize = new BatchSize(settings.concurrency, settings.batchSize)
    this.#leasing = new Leasing(core, settings, registrations, (events, at) => this.#take(events, at))
    this.#keyRun = new KeyRun({
      ...{ handling, settings, clock: this.#clock, logger: this.#logger },
      stopping: () => this.#stopping,
    })
    this.#settler = new Settler(core, settings, {
      buried: (attempt, error) => handling.buried(attempt, error),
      settled: (...settled) => this.#settled(...settled),
      roomMade: () => this.#poller.offerRoom(),
    })
    this.#heartbeat = new Heartbeat(core, settings, () => this.#lookedAfter())
    this.#purger = new Purger(core, settings)
    this.#unhandled = new Unhandled(core, registrations, settings, this.#leasing)
    this.#listening = new Listening(core, settings.hardDeadlineMs, () => this.#poller.wakeIn(0))
    this.#poller = new Poller(this.#clock, settings, {
      full: () => this.#full(),
      lease: () => this.#leasing.next(this.#batchSize.current),
    })
  }

  /** @throws what the first lease throws, unless it is a failure that may pass by itself. */
  start(): Promise<void> {
    this.#starting = this.#start()
    return this.#starting
  }

  async #start(): Promise<void> {
    try {
      await this.#leasing.first(this.#batchSize.current)
    } catch (error) {
      const passes = error instanceof UnansweredError || isPassing(error)
      if (!passes) throw error
      this.#logger.warn(errFields(error), 'the database is not there yet; polling until it is')
    }
    if (this.#stopping) return
    this.#heartbeat.start()
    this.#core.workers.add(this.#leasing)
    this.#unsubscribe = this.#core.wake.subscribe((inMs) => this.#poller.wakeIn(inMs))
    await this.#listening.start()
    if (this.#stopping) return
    this.#purger.start()
    void this.#core.keys.sweep()
    this.#unhandled.start()
    this.#poller.start()
  }

  /** Takes nothing new, waits for what runs, then aborts it, and gives back every lease that the database lets it. */
  async stop(drainMs: number): Promise<void> {
    this.#stopping = true
    if (await endsWithin(this.#clock, drainMs + 2 * GRACE_MS + UNANSWERED_MS, this.#end(drainMs))) return
    this.#settler.abandon()
    void this.#heartbeat.stop()
    this.#logger.error({ held: this.#held.size }, 'the database does not answer; the leases will run out')
  }

  async #end(drainMs: number): Promise<void> {
    // Whatever it failed with has been told to whoever started.
    await this.#starting.catch(() => {})
    this.#unsubscribe?.()
    this.#core.workers.delete(this.#leasing)
    const background = [this.#poller, this.#purger, this.#unhandled, this.#listening]
    await Promise.all(background.map((part) => part.stop()))
    this.#releaseQueue()
    if (!(await endsWithin(this.#clock, drainMs, this.#held.emptied()))) {
      const reason = new StoppingError('the bus is stopping')
      this.#held.abortAll((attempt) => attempt.abort(reason, { wait: true }))
      if (!(await endsWithin(this.#clock, GRACE_MS, this.#held.emptied()))) {
        this.#held.abortAll((attempt) => attempt.abort(reason))
        this.#settler.abandon()
        // What was aborted is still on its way to the settler.
        await endsWithin(this.#clock, GRACE_MS, this.#held.emptied())
      }
    }
    await this.#settler.drained()
    await this.#heartbeat.stop()
  }

  #take(events: readonly LeasedEvent[], leasedAt: number): void {
    // An answer so late may be about leases that others have by now.
    if (this.#clock.elapsed() - leasedAt >= this.#settings.leaseMs) return
    if (events.length > 0 && this.#queue.length === 0) this.#batchSize.begin(leasedAt)
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
    this.#hold(attempt)
    this.#queue.push(attempt)
  }

  #hold(attempt: Attempt): void {
    this.#held.add(attempt)
    this.#leasing.shares.hold(attempt.leased.address)
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
    return this.#held.current
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
    const ran = attempt.leased.behind ? await this.#keyRun.after(attempt, outcome) : undefined
    rest()
    if (ran) this.#ran.set(attempt, ran)
    this.#settler.add({ attempt, outcome: this.#goingOn(ran?.outcome ?? outcome), alone: ran?.alone })
    this.#startMore()
    this.#poller.offerRoom()
  }

  // Not past what has waited for longer: then it is leased in its turn, with many others at once.
  #goingOn(outcome: Outcome): Outcome {
    const room = !this.#stopping && !this.#leasing.backlog && !this.#full()
    if (!room || outcome.append.length > this.#batchSize.current) return outcome
    return leasingOn(outcome, this.#settings.leaseMs, (address) => this.#leasing.shares.takes(address))
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
    const applied = result.status === 'applied'
    if (applied) this.#goOn(attempt, outcome, writingSince)
    if (applied && outcome.settle?.kind === 'complete') this.#complete(attempt, outcome.settle)
    this.#held.remove(attempt)
    if (this.#leasing.shares.letGo(attempt.leased.address)) this.#poller.wakeIn(0)
    this.#poller.offerRoom()
  }

  /** Tells of an event, and of those behind it that were completed with it; the one that failed is settled next. */
  #complete(attempt: Attempt, { also = [], take }: SettlementOf<'complete'>): void {
    this.#completed(attempt)
    const ran = this.#ran.get(attempt)
    for (const one of ran?.also ?? []) if (also.includes(one.id)) this.#completed(one)
    if (!ran?.failed || !take) return
    this.#hold(ran.failed.attempt)
    this.#settler.add(ran.failed)
  }

  #goOn(attempt: Attempt, outcome: Outcome, leasedAt: number): void {
    const events = leasedBy(outcome, attempt.databaseNow(leasedAt))
    if (events.length === 0) return
    for (const event of events) this.#accept(event, leasedAt, outcome.put)
    if (this.#stopping) this.#releaseQueue()
    else this.#startMore()
  }
}
