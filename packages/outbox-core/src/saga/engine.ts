import type { OutboxEventBus } from '../bus.ts'
import { assertOutlives, type ClaimCheckOptions, claimCheck, timeToLive } from '../claims/claim-check.ts'
import type { SagaStoreAdapter } from '../claims/saga-store.ts'
import type { Delivery } from '../delivering/delivery.ts'
import { type RetryOptions, retryPolicy } from '../delivering/retry.ts'
import { EventDraft, type EventOptions, SLIP_HEADER } from '../emitting/event.ts'
import { ConfigurationError, DuplicateRegistrationError } from '../errors.ts'
import { newId } from '../ids.ts'
import { errorFields } from '../logger.ts'
import { durationMs } from '../options.ts'
import type { Activity } from './activity.ts'
import type { KnownActivity } from './attempt.ts'
import { LIFECYCLE_KINDS, type LifecycleEvent } from './lifecycle.ts'
import type { RoutingSlip } from './routing-slip.ts'
import { type SlipState, slipState } from './slip-state.ts'
import { advance, knownActivity } from './step.ts'

export interface SagaEngineOptions<Events extends object, Tx> {
  readonly bus: OutboxEventBus<Events, Tx>
  /** Where large slips are kept: `outbox.sagaStore(ttl)`, whose writes are part of the events' own. */
  readonly store: SagaStoreAdapter
  /** Every activity that slips of this engine may name. */
  readonly activities: readonly Activity[]
  /**
   * Tells engines of one outbox apart: prefix of their event types and of idempotency keys.
   * @default 'saga'
   */
  readonly name?: string
  /** For activities without a policy of their own. @default 10 attempts, 1 s to 5 min apart */
  readonly retry?: RetryOptions
  /** When a slip's bytes go to the store, and for how long. @default above 10 KiB, for the store's time to live */
  readonly claims?: Pick<ClaimCheckOptions, 'threshold' | 'ttl'>
}

/** What `engine.emit` takes beside the slip. */
export type StartOptions<Tx = unknown> = Pick<EventOptions, 'deliverAt' | 'delay' | 'headers'> & {
  /** The transaction to start in, instead of the ambient one. */
  readonly transaction?: Tx
}

// A step's own policy decides when it has failed for good; the bus only has to keep delivering it.
const UNTIL_THE_STEP_DECIDES = { maxAttempts: 1_000_000 }

/**
 * Runs routing slips: one activity for each event, each transition one atomic write that settles the event, appends
 * the next one, puts the slip's new bytes and removes the old ones. A transition happens exactly once however often
 * its event is delivered; an activity's own effects happen at least once, which is what its idempotency key is for.
 */
export class SagaEngine<Events extends object = Record<string, unknown>, Tx = unknown> {
  readonly name: string
  /** The event type that carries slips from step to step. */
  readonly stepType: string
  readonly #bus: OutboxEventBus<Events, Tx>
  readonly #activities = new Map<string, KnownActivity>()
  readonly #ttlMs: number

  /**
   * @throws ConfigurationError, also when slips would expire in the store while an activity is still being retried;
   *   DuplicateRegistrationError when two activities share a name
   */
  constructor(options: SagaEngineOptions<Events, Tx>) {
    this.name = engineName(options.name ?? 'saga')
    this.stepType = `${this.name}.step`
    this.#bus = options.bus
    this.#ttlMs = timeToLive(options.store, options.claims?.ttl)
    for (const activity of options.activities) this.#know(activity, options.retry)
    const types = [this.stepType, ...LIFECYCLE_KINDS.map((kind) => `${this.name}.${kind}`)]
    options.bus.use(claimCheck(options.store, { ...options.claims, types }))
    options.bus.register(this.stepType, {
      retry: retryPolicy(UNTIL_THE_STEP_DECIDES),
      timeoutMs: this.#longestAttemptMs(),
      handle: (delivery) => this.#step(delivery),
      buried: (delivery, error) => this.#buried(delivery, error),
    })
  }

  /**
   * Starts a routing slip, in the transaction around it or in a write of its own. A slip with an id of its own
   * starts once: emitted again, while it runs and for the store's time to live after its first step, it is dropped
   * without a word when it is the same, and a DuplicateEventError when it is not.
   *
   * @returns the slip's id
   * @throws EmptyItineraryError, UnknownActivityError, and what `bus.emit` throws: nothing is stored then
   */
  emit(slip: RoutingSlip, options: StartOptions<Tx> = {}): Promise<string> {
    const { transaction, ...eventOptions } = options
    const id = slip.id ?? newId()
    return this.#bus.outbox.participate(transaction, async (context) => {
      await this.#bus.store([this.#start(slip, id, eventOptions)], context)
      return id
    })
  }

  /**
   * Takes up a slip again that waits as a dead letter, because a compensation failed for good or its activity was
   * unknown: from the step where it stopped, with all its attempts.
   *
   * @returns whether there was one
   */
  async resume(slipId: string): Promise<boolean> {
    const { deadLetters } = this.#bus.outbox
    let after: string | undefined
    do {
      const page = await deadLetters.list({
        type: this.stepType,
        limit: 1000,
        ...(after !== undefined && { after }),
      })
      const letter = page.letters.find(({ routingSlipId }) => routingSlipId === slipId)
      if (letter) return (await deadLetters.retry(letter.id)) === 1
      after = page.next
    } while (after !== undefined)
    return false
  }

  #start(slip: RoutingSlip, id: string, options: EventOptions): EventDraft {
    slip.assertNotEmpty()
    for (const { activity } of slip.itinerary.steps) knownActivity(activity, this.#activities)
    const state: SlipState = {
      v: 1,
      name: slip.name,
      id,
      phase: 'execute',
      step: 0,
      itinerary: slip.itinerary.steps,
      variables: slip.initialVariables,
      log: [],
      ...(slip.dueBy && { deadline: slip.dueBy }),
    }
    const eventId = slip.id === undefined ? undefined : this.#startId(slip.id)
    return new EventDraft(this.stepType, state, { ...options, id: eventId }, { [SLIP_HEADER]: id })
  }

  async #step(delivery: Delivery): Promise<void> {
    const { name: engine, stepType } = this
    const { clock } = this.#bus.outbox
    const state = slipState(delivery.payload)
    const { next, events } = await advance(state, delivery, { engine, activities: this.#activities, clock })
    if (delivery.id === this.#startId(state.id)) delivery.keepMs = Math.max(delivery.keepMs, this.#ttlMs)
    if (next) await delivery.emit(stepType, next, {}, { [SLIP_HEADER]: next.id })
    for (const event of events) await this.#tell(delivery, event)
  }

  async #buried(delivery: Delivery, error: Error): Promise<void> {
    const { id: slipId, name: slipName, phase, fault, log } = slipState(delivery.payload)
    const entry = log.at(-1)
    if (phase !== 'compensate' || !entry || !fault) return
    const { step, activity } = entry
    const { message } = errorFields(error)
    await this.#tell(delivery, {
      kind: 'compensationFailed',
      payload: { slipId, slipName, fault, step, activity, error: message },
    })
  }

  async #tell(delivery: Delivery, { kind, payload }: LifecycleEvent): Promise<void> {
    const type = `${this.name}.${kind}`
    if (this.#bus.handles(type)) await delivery.emit(type, payload, {}, { [SLIP_HEADER]: payload.slipId })
  }

  #know(activity: Activity, retry: RetryOptions | undefined): void {
    if (this.#activities.has(activity.name)) {
      throw new DuplicateRegistrationError(
        `activity "${activity.name}" was given twice; names are unique in an engine`,
      )
    }
    const policy = retryPolicy(activity.retry ?? retry)
    assertOutlives(this.#ttlMs, policy.horizonMs)
    const { handlerTimeoutMs } = this.#bus.settings
    const timeoutMs =
      activity.timeout === undefined ? handlerTimeoutMs : durationMs('timeout', activity.timeout)
    this.#activities.set(activity.name, { activity, retry: policy, timeoutMs })
  }

  // Loading a slip has its time too; the activity's own timeout is kept by the step.
  #longestAttemptMs(): number {
    const timeouts = [...this.#activities.values()].map(({ timeoutMs }) => timeoutMs)
    return Math.max(0, ...timeouts) + this.#bus.settings.handlerTimeoutMs
  }

  #startId(slipId: string): string {
    return `${this.name}/${slipId}`
  }
}

function engineName(name: string): string {
  if (typeof name === 'string' && /^[A-Za-z][A-Za-z0-9_-]{0,39}$/.test(name)) return name
  throw new ConfigurationError(
    'name',
    name,
    'it starts with a letter, holds letters, digits, _ and -, at most 40',
  )
}
