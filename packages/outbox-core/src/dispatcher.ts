import type { DispatcherSettings } from './bus-options.ts'
import type { Clock } from './clock.ts'
import { Delivery } from './delivery.ts'
import type { Emission } from './emission.ts'
import { StoppingError, StorageError, toError } from './errors.ts'
import { type Handling, released } from './handling.ts'
import { Heartbeat } from './heartbeat.ts'
import { errorFields, type Logger } from './logger.ts'
import type { Outbox } from './outbox.ts'
import { Purger } from './purger.ts'
import { type Finished, Settler } from './settler.ts'
import type { LeasedEvent, OutcomeResult } from './storage.ts'
import { WakeTimes } from './wake-times.ts'

// A batch that takes longer than this to be started is too much for one worker: the next one is smaller.
const SLOW_BATCH_MS = 200

// How long handlers may still take after their signal was aborted.
const GRACE_MS = 1_000

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
  readonly #wakeTimes = new WakeTimes()
  #active = 0
  #batchSize: number
  #batchStartedAt = 0
  #stopping = false
  #wakeUp: (() => void) | undefined
  #roomMade: (() => void) | undefined
  #allSettled: (() => void) | undefined
  #polling: Promise<void> = Promise.resolve()
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
    this.#batchSize = parts.settings.batchSize
    this.#settler = new Settler(parts.outbox, parts.settings.batchSize * 2, (finished, result) =>
      this.#settled(finished, result),
    )
    const { leaseMs, heartbeatMs: everyMs, purgeIntervalMs } = parts.settings
    this.#heartbeat = new Heartbeat(parts.outbox, { everyMs, leaseMs }, () => this.#held)
    this.#purger = new Purger(parts.outbox, purgeIntervalMs)
  }

  /** @throws what the first lease throws, unless it is a failure that may pass by itself. */
  async start(): Promise<void> {
    try {
      await this.#lease()
    } catch (error) {
      if (!(error instanceof StorageError && error.transient)) throw error
      this.#logger.warn({ error: errorFields(error) }, 'the database is not there yet; polling until it is')
    }
    this.#unsubscribe = this.#outbox.onWake((inMs) => this.#wakeIn(inMs))
    this.#unlisten = await this.#outbox.storage.listen?.(() => this.#wakeIn(0))
    this.#heartbeat.start()
    this.#purger.start()
    this.#polling = this.#poll()
  }

  /** Takes nothing new, waits for what runs, then aborts it, and gives back every lease. */
  async stop(drainMs: number): Promise<void> {
    this.#stopping = true
    this.#wakeUp?.()
    this.#roomMade?.()
    this.#unsubscribe?.()
    await this.#unlisten?.()
    await Promise.all([this.#polling, this.#purger.stop()])
    for (const delivery of this.#queue.splice(0)) this.#settler.add({ delivery, outcome: released(delivery) })
    if (!(await this.#emptied(drainMs))) {
      const reason = new StoppingError('the bus is stopping')
      for (const delivery of this.#held) delivery.abort(reason, { wait: true })
      if (!(await this.#emptied(GRACE_MS))) {
        for (const delivery of this.#held) delivery.abort(reason)
        this.#settler.abandon()
      }
    }
    await this.#settler.drained()
    await this.#heartbeat.stop()
  }

  async #poll(): Promise<void> {
    const { minPollMs, maxPollMs } = this.#settings
    let pause = minPollMs
    while (!this.#stopping) {
      await this.#room()
      this.#wakeTimes.dropUntil(this.#clock.now())
      const wanted = this.#batchSize
      const taken = await this.#leaseOrLog()
      if (taken > 0) pause = minPollMs
      if (taken === wanted) continue
      const woken = await this.#sleep(pause)
      pause = woken ? minPollMs : Math.min(pause * 2, maxPollMs)
    }
  }

  async #room(): Promise<void> {
    while (this.#full() && !this.#stopping) {
      await new Promise<void>((resolve) => {
        this.#roomMade = resolve
      })
    }
  }

  /** Resolves after `ms`, or with true as soon as an event is known to be due. */
  async #sleep(ms: number): Promise<boolean> {
    const end = this.#clock.now() + ms
    while (!this.#stopping) {
      const now = this.#clock.now()
      const due = this.#wakeTimes.next
      if (due !== undefined && due <= now) return true
      const left = Math.min(end, due ?? end) - now
      if (left <= 0) return false
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.after(left, resolve)
        this.#wakeUp = () => {
          cancel()
          resolve()
        }
      })
    }
    return false
  }

  async #leaseOrLog(): Promise<number> {
    try {
      return await this.#lease()
    } catch (thrown) {
      const error = toError(thrown)
      const level = error instanceof StorageError ? 'warn' : 'error'
      this.#logger[level]({ error: errorFields(error) }, 'lease failed, will repeat')
      return 0
    }
  }

  async #lease(): Promise<number> {
    const { leaseMs, retentionMs } = this.#settings
    const leasedAt = this.#clock.now()
    const events = await this.#outbox.storage.lease(this.#batchSize, leaseMs)
    if (this.#queue.length === 0) this.#batchStartedAt = leasedAt
    for (const leased of events) this.#accept(leased, leasedAt, retentionMs)
    this.#startMore()
    return events.length
  }

  #accept(leased: LeasedEvent, leasedAt: number, keepMs: number): void {
    const delivery = new Delivery(leased, this.#emission, this.#logger, leasedAt, keepMs)
    this.#held.add(delivery)
    this.#queue.push(delivery)
  }

  #startMore(): void {
    while (this.#active < this.#settings.concurrency && !this.#stopping) {
      const delivery = this.#queue.shift()
      if (!delivery) return
      if (this.#queue.length === 0) this.#adaptBatch()
      void this.#run(delivery)
    }
  }

  async #run(delivery: Delivery): Promise<void> {
    this.#active++
    const outcome = await this.#handling.outcome(delivery)
    this.#active--
    this.#settler.add({ delivery, outcome })
    this.#startMore()
    if (!this.#full()) this.#roomMade?.()
  }

  // What one worker has leased but can't start, others can't take.
  #adaptBatch(): void {
    const { batchSize, concurrency } = this.#settings
    const slow = this.#clock.now() - this.#batchStartedAt > SLOW_BATCH_MS
    const size = slow ? Math.max(concurrency, Math.floor(this.#batchSize / 2)) : this.#batchSize * 2
    this.#batchSize = Math.min(size, batchSize)
  }

  #full(): boolean {
    return this.#queue.length > this.#batchSize / 2 || this.#held.size > this.#settings.batchSize * 2
  }

  #settled({ delivery, outcome }: Finished, result: OutcomeResult): void {
    this.#held.delete(delivery)
    if (this.#held.size === 0) this.#allSettled?.()
    if (result.status === 'applied' && outcome.settle?.kind === 'complete') this.#completed(delivery)
    if (!this.#full()) this.#roomMade?.()
  }

  #wakeIn(inMs: number): void {
    this.#wakeTimes.add(this.#clock.now() + Math.max(0, inMs))
    this.#wakeUp?.()
  }

  /** Whether everything leased was settled within `ms`. */
  async #emptied(ms: number): Promise<boolean> {
    if (this.#held.size === 0) return true
    return new Promise((resolve) => {
      const cancel = this.#clock.after(ms, () => resolve(false))
      this.#allSettled = () => {
        cancel()
        resolve(true)
      }
    })
  }
}
