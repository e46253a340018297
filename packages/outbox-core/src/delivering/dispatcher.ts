import type { Clock } from '../clock.ts'
import type { Emission } from '../emitting/emission.ts'
import { StoppingError, StorageError, toError } from '../errors.ts'
import { errorFields, type Logger } from '../logger.ts'
import type { Outbox } from '../outbox.ts'
import type { LeasedEvent, Outcome, OutcomeResult, PayloadRecord } from '../storage.ts'
import { BatchSize } from './batch-size.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { leasedBy, leasingOn } from './continuing.ts'
import { Delivery } from './delivery.ts'
import { type Handling, released } from './handling.ts'
import { Heartbeat } from './heartbeat.ts'
import { Poller, type Taken } from './poller.ts'
import { Purger } from './purger.ts'
import { type Finished, Settler } from './settler.ts'

// How long handlers may still take after their signal was aborted.
const GRACE_MS = 1_000

// How long `stop` waits beyond that for a database that does not answer.
const UNANSWERED_MS = 5_000

/** Takes due events in batches, has them handled with bounded concurrency, and has their outcomes written. */
export class Dispatcher {
  readonly #outbox: Outbox
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #settings: DispatcherSettings
  readonly #handling: Handling
  readonly #emission: Emission
  readonly #settler: Settler
  readonly #heartbeat: Heartbeat
  readonly #purger: Purger
  readonly #completed: (delivery: Delivery) => void
  /** Everything leased here and not yet settled. */
  readonly #held = new Set<Delivery>()
  readonly #queue: Delivery[] = []
  readonly #poller: Poller
  readonly #batchSize: BatchSize
  /** Whether the last lease may have left something waiting. */
  #backlog = true
  #active = 0
  #stopping = false
  #allSettled: (() => void) | undefined
  #unsubscribe: (() => void) | undefined
  #unlisten: (() => Promise<void>) | undefined

  constructor(parts: {
    outbox: Outbox
    settings: DispatcherSettings
    handling: Handling
    emission: Emission
    completed: (delivery: Delivery) => void
  }) {
    this.#outbox = parts.outbox
    this.#clock = parts.outbox.clock
    this.#logger = parts.outbox.logger
    this.#settings = parts.settings
    this.#handling = parts.handling
    this.#emission = parts.emission
    this.#completed = parts.completed
    const { batchSize, concurrency } = parts.settings
    this.#batchSize = new BatchSize(concurrency, batchSize)
    this.#settler = new Settler(parts.outbox, parts.settings, (...settled) => this.#settled(...settled))
    const { leaseMs, heartbeatMs: everyMs, purgeIntervalMs } = parts.settings
    this.#heartbeat = new Heartbeat(parts.outbox, { everyMs, leaseMs }, () => this.#held)
    this.#purger = new Purger(parts.outbox, purgeIntervalMs)
    this.#poller = new Poller(this.#clock, parts.settings, {
      full: () => this.#full(),
      lease: () => this.#leaseOrLog(),
    })
  }

  /** @throws what the first lease throws, unless it is a failure that may pass by itself. */
  async start(): Promise<void> {
    try {
      await this.#lease()
    } catch (error) {
      if (!(error instanceof StorageError && error.transient)) throw error
      this.#logger.warn({ error: errorFields(error) }, 'the database is not there yet; polling until it is')
    }
    this.#unsubscribe = this.#outbox.onWake((inMs) => this.#poller.wakeIn(inMs))
    this.#unlisten = await this.#listen()
    this.#heartbeat.start()
    this.#purger.start()
    this.#poller.start()
  }

  /** Takes nothing new, waits for what runs, then aborts it, and gives back every lease that the database lets it. */
  async stop(drainMs: number): Promise<void> {
    this.#stopping = true
    this.#unsubscribe?.()
    if (await this.#within(drainMs + 2 * GRACE_MS + UNANSWERED_MS, this.#end(drainMs))) return
    this.#settler.abandon()
    void this.#heartbeat.stop()
    this.#logger.error({ held: this.#held.size }, 'the database does not answer; the leases will run out')
  }

  async #end(drainMs: number): Promise<void> {
    await Promise.all([this.#poller.stop(), this.#purger.stop(), this.#unlisten?.()])
    this.#releaseQueue()
    if (!(await this.#emptied(drainMs))) {
      const reason = new StoppingError('the bus is stopping')
      for (const delivery of this.#held) delivery.abort(reason, { wait: true })
      if (!(await this.#emptied(GRACE_MS))) {
        for (const delivery of this.#held) delivery.abort(reason)
        this.#settler.abandon()
        // What was aborted is still on its way to the settler.
        await this.#emptied(GRACE_MS)
      }
    }
    await this.#settler.drained()
    await this.#heartbeat.stop()
  }

  async #listen(): Promise<(() => Promise<void>) | undefined> {
    try {
      return await this.#outbox.storage.listen?.(() => this.#poller.wakeIn(0))
    } catch (error) {
      const fields = { error: errorFields(toError(error)) }
      this.#logger.warn(fields, 'other processes can’t wake this one; polling finds their events')
      return undefined
    }
  }

  async #leaseOrLog(): Promise<Taken> {
    try {
      return await this.#lease()
    } catch (thrown) {
      const error = toError(thrown)
      const level = error instanceof StorageError ? 'warn' : 'error'
      this.#logger[level]({ error: errorFields(error) }, 'lease failed, will repeat')
      return { count: 0, more: false }
    }
  }

  async #lease(): Promise<Taken> {
    const leasedAt = this.#clock.elapsed()
    const wanted = this.#batchSize.current
    const events = await this.#outbox.storage.lease(wanted, this.#settings.leaseMs)
    this.#backlog = events.length === wanted
    if (events.length > 0 && this.#queue.length === 0) this.#batchSize.begin(leasedAt)
    for (const leased of events) {
      this.#accept(leased, leasedAt)
      this.#batchSize.add(leased.body.length)
    }
    this.#startMore()
    return { count: events.length, more: this.#backlog }
  }

  #accept(leased: LeasedEvent, leasedAt: number, carried: readonly PayloadRecord[] = []): void {
    const { retentionMs } = this.#settings
    const delivery = new Delivery(leased, this.#emission, this.#logger, leasedAt, retentionMs)
    delivery.carried = carried
    this.#held.add(delivery)
    this.#queue.push(delivery)
  }

  #releaseQueue(): void {
    for (const delivery of this.#queue.splice(0)) this.#settler.add({ delivery, outcome: released(delivery) })
  }

  #startMore(): void {
    while (this.#active < this.#settings.concurrency && !this.#stopping) {
      const delivery = this.#queue.shift()
      if (!delivery) return
      if (this.#queue.length === 0) this.#batchSize.end(this.#clock.elapsed())
      void this.#run(delivery)
    }
  }

  async #run(delivery: Delivery): Promise<void> {
    this.#active++
    const outcome = await this.#handling.outcome(delivery)
    this.#active--
    this.#settler.add({ delivery, outcome: this.#goingOn(outcome) })
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
    return this.#queue.length > current / 2 || this.#held.size > current * 2
  }

  #settled({ delivery, outcome }: Finished, result: OutcomeResult, writingSince: number): void {
    if (result.status === 'applied') this.#goOn(outcome, writingSince)
    this.#held.delete(delivery)
    if (this.#held.size === 0) this.#allSettled?.()
    if (result.status === 'applied' && outcome.settle?.kind === 'complete') this.#completed(delivery)
    this.#poller.offerRoom()
  }

  #goOn(outcome: Outcome, leasedAt: number): void {
    const events = leasedBy(outcome, this.#clock.now())
    if (events.length === 0) return
    for (const event of events) this.#accept(event, leasedAt, outcome.put)
    if (this.#stopping) this.#releaseQueue()
    else this.#startMore()
  }

  /** Whether everything leased was settled within `ms`. */
  async #emptied(ms: number): Promise<boolean> {
    if (this.#held.size === 0) return true
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
