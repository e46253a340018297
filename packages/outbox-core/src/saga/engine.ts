import { type BusParts, type OutboxEventBus, partsOf } from '../bus.ts'
import { assertOutlives, type ClaimCheckOptions, claimCheck, timeToLive } from '../claims/claim-check.ts'
import type { SagaStoreAdapter } from '../claims/saga-store.ts'
import type { Attempt } from '../delivering/attempt.ts'
import type { EmitSession } from '../delivering/emit-session.ts'
import type { Registration } from '../delivering/registrations.ts'
import { type RetryOptions, retryPolicy } from '../delivering/retry.ts'
import { Draft, type EventOptions, SLIP_HEADER, TOLD_HEADER, userHeaders } from '../emitting/event.ts'
import { ConfigurationError, DuplicateRegistrationError } from '../errors.ts'
import { newId } from '../ids.ts'
import { durationMs } from '../options.ts'
import type { Headers } from '../storage.ts'
import type { Activity, ActivityContract } from './activity.ts'
import type { KnownActivity } from './activity-run.ts'
import { LIFECYCLE_KINDS, type LifecycleEvent, type LifecycleKind } from './lifecycle.ts'
import type { RoutingSlip } from './routing-slip.ts'
import { type SlipState, slipState } from './slip-state.ts'
import { StartMemory } from './start-memory.ts'
import { advance, assertKnown, type Transition } from './step.ts'
import { compensateAddress, executeAddress, stepAddress } from './step-address.ts'
import { buriedSlip } from './stuck.ts'
import { writtenDown } from './writing-down.ts'

export interface SagaEngineOptions<Events extends object, Tx> {
  readonly bus: OutboxEventBus<Events, Tx>
  /** Where large slips are kept: `outbox.sagaStore(ttl)`, whose writes are part of the events' own. */
  readonly store: SagaStoreAdapter
  /**
   * Every activity that slips of this engine may name. Of those that are only contracts this process takes no steps: they
   * wait for one that has the activity itself.
   */
  readonly activities: readonly (Activity | ActivityContract)[]
  /**
   * Tells engines of one outbox apart: prefix of their event types and of idempotency keys.
   * @default 'saga'
   */
  readonly name?: string
  /** For activities without a policy of their own. @default 10 attempts, 1 s to 5 min apart */
  readonly retry?: RetryOptions
  /**
   * Which lifecycle events are told. Say it where neither the process that starts a slip nor the one that takes its steps
   * handles them: no process can know of handlers elsewhere. Told without a handler anywhere, they end as dead letters.
   * @default those that the process that started the slip had a handler for, and those that this one has
   */
  readonly lifecycle?: readonly LifecycleKind[]
  /** When a slip's bytes go to the store, and for how long. @default above 10 KiB, for the store's time to live */
  readonly claims?: Pick<ClaimCheckOptions, 'threshold' | 'ttl'>
}

/** What `engine.emit` takes beside the slip. */
export type StartOptions<Tx = unknown> = Pick<EventOptions, 'deliverAt' | 'delay' | 'headers' | 'key'> & {
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
  readonly #parts: BusParts
  /** Those that run here. */
  readonly #activities = new Map<string, KnownActivity>()
  readonly #names = new Set<string>()
  readonly #ttlMs: number
  readonly #starts: StartMemory
  readonly #told: ReadonlySet<LifecycleKind> | undefined

  /**
   * @throws ConfigurationError, also when slips would expire in the store while an activity is still being retried;
   *   DuplicateRegistrationError when two activities share a name
   */
  constructor(options: SagaEngineOptions<Events, Tx>) {
    this.name = engineName(options.name ?? 'saga')
    this.stepType = `${this.name}.step`
    this.#bus = options.bus
    this.#parts = partsOf(options.bus)
    this.#ttlMs = timeToLive(options.store, options.claims?.ttl)
    this.#told = options.lifecycle && new Set(options.lifecycle.map(knownKind))
    const { core, settings } = this.#parts
    this.#starts = new StartMemory(this.name, core, this.#ttlMs, settings.hardDeadlineMs)
    for (const activity of options.activities) this.#know(activity, options.retry)
    const types = [this.stepType, ...LIFECYCLE_KINDS.map((kind) => `${this.name}.${kind}`)]
    options.bus.use(claimCheck(options.store, { ...options.claims, types }))
    const step: Registration = {
      retry: retryPolicy(UNTIL_THE_STEP_DECIDES),
      timeoutMs: this.#longestAttemptMs(),
      handle: (attempt, session) => this.#step(attempt, session),
      delayed: (attempt, delayMs) => this.#starts.outlast(attempt, delayMs),
      buried: (attempt, session, error) => this.#buried(attempt, session, error),
    }
    // Slips of a version that did not say which activity is next.
    this.#parts.registrations.add(this.stepType, step)
    for (const { activity } of this.#activities.values()) {
      this.#parts.registrations.add(executeAddress(this.stepType, activity.name), step)
      if (activity.compensate)
        this.#parts.registrations.add(compensateAddress(this.stepType, activity.name), step)
    }
  }

  /**
   * Starts a routing slip, in the transaction around it or in a write of its own. The slip is taken at the call. A slip
   * with an id of its own starts once: emitted again, while it runs and for the store's time to live after its first
   * step, it is dropped without a word when it is the same, and a DuplicateEventError when it is not.
   *
   * @param options.headers travel with every step and lifecycle event; activities can read them
   * @returns the slip's id
   * @throws EmptyItineraryError, UnknownActivityError, and what `bus.emit` throws: nothing is stored then
   */
  emit(slip: RoutingSlip, options: StartOptions<Tx> = {}): Promise<string> {
    const { transaction, ...eventOptions } = options
    const { core, emission } = this.#parts
    return core.participate(transaction, (context) => {
      const id = slip.id ?? newId()
      const payload = this.#started(slip, id)
      const draft = new Draft(
        this.stepType,
        payload,
        { ...eventOptions, id: slip.id === undefined ? undefined : this.#starts.eventId(slip.id) },
        { headers: { [SLIP_HEADER]: id, ...this.#toldHere() }, address: stepAddress(this.stepType, payload) },
      )
      return emission.store([{ draft, payload }], context).then(() => id)
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

  #started(slip: RoutingSlip, id: string): SlipState {
    slip.assertNotEmpty()
    for (const { activity } of slip.itinerary.steps) assertKnown(activity, this.#names)
    return {
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
  }

  async #step(attempt: Attempt, session: EmitSession): Promise<void> {
    const { name: engine } = this
    const { core, settings } = this.#parts
    const state = slipState(attempt.payload)
    const transition = await advance(state, attempt, {
      engine,
      activities: this.#activities,
      names: this.#names,
      clock: core.clock,
    })
    // The activity has run, or is not to be run again: from here on only what came of it has to be written.
    attempt.place = 'writing'
    const own = await this.#starts.keep(attempt, state.id)
    await writtenDown({ attempt, session, core, asideMs: settings.asideMs }, () =>
      this.#writeDown(attempt, session, transition, own),
    )
  }

  async #writeDown(
    attempt: Attempt,
    session: EmitSession,
    { next, events }: Transition,
    own: Headers,
  ): Promise<void> {
    const { key } = attempt.leased
    const options = { headers: userHeaders(attempt.headers), ...(key !== null && { key }) }
    const told = attempt.headers[TOLD_HEADER]
    if (next) {
      await session.add(this.stepType, next, options, {
        headers: { [SLIP_HEADER]: next.id, ...own, ...(told !== undefined && { [TOLD_HEADER]: told }) },
        address: stepAddress(this.stepType, next),
        inPlace: true,
      })
    }
    for (const event of events) await this.#tell(attempt, session, event)
  }

  async #buried(attempt: Attempt, session: EmitSession, error: Error): Promise<void> {
    const event = buriedSlip(slipState(attempt.payload), error)
    if (event) await this.#tell(attempt, session, event)
  }

  async #tell(attempt: Attempt, session: EmitSession, { kind, payload }: LifecycleEvent): Promise<void> {
    const askedFor = this.#told === undefined && attempt.headers[TOLD_HEADER]?.split(' ').includes(kind)
    if (!askedFor && !this.#tells(kind)) return
    const type = `${this.name}.${kind}`
    const options = { headers: userHeaders(attempt.headers) }
    await session.add(type, payload, options, { headers: { [SLIP_HEADER]: payload.slipId } })
  }

  #tells(kind: LifecycleKind): boolean {
    return this.#told?.has(kind) ?? this.#parts.registrations.has(`${this.name}.${kind}`)
  }

  /** For workers that have no handlers of these events. */
  #toldHere(): Headers {
    const kinds = LIFECYCLE_KINDS.filter((kind) => this.#tells(kind))
    return kinds.length > 0 ? { [TOLD_HEADER]: kinds.join(' ') } : {}
  }

  #know(activity: Activity | ActivityContract, retry: RetryOptions | undefined): void {
    if (this.#names.has(activity.name)) {
      throw new DuplicateRegistrationError(
        `activity "${activity.name}" was given twice; names are unique in an engine`,
      )
    }
    this.#names.add(activity.name)
    if (!isRunnable(activity)) return
    const policy = retryPolicy(activity.retry ?? retry)
    assertOutlives(this.#ttlMs, policy.horizonMs)
    const { handlerTimeoutMs } = this.#parts.settings
    const timeoutMs =
      activity.timeout === undefined ? handlerTimeoutMs : durationMs('timeout', activity.timeout)
    this.#activities.set(activity.name, { activity, retry: policy, timeoutMs })
  }

  // Loading a slip has its time too; the activity's own timeout is kept by the step.
  #longestAttemptMs(): number {
    const timeouts = [...this.#activities.values()].map(({ timeoutMs }) => timeoutMs)
    return Math.max(0, ...timeouts) + this.#parts.settings.handlerTimeoutMs
  }
}

function isRunnable(activity: Activity | ActivityContract): activity is Activity {
  return activity.execute !== undefined
}

function knownKind(kind: LifecycleKind): LifecycleKind {
  if (LIFECYCLE_KINDS.includes(kind)) return kind
  throw new ConfigurationError('lifecycle', kind, `it is one of ${LIFECYCLE_KINDS.join(', ')}`)
}

function engineName(name: string): string {
  if (typeof name === 'string' && /^[A-Za-z][A-Za-z0-9_-]{0,39}$/.test(name)) return name
  throw new ConfigurationError(
    'name',
    name,
    'it starts with a letter, holds letters, digits, _ and -, at most 40',
  )
}
