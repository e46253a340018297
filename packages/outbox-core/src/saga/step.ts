import type { Clock } from '../clock.ts'
import type { Delivery } from '../delivering/delivery.ts'
import { serialize } from '../emitting/serialize.ts'
import {
  InvalidSlipError,
  isPermanent,
  PermanentError,
  RetryLaterError,
  toError,
  UnknownActivityError,
} from '../errors.ts'
import { errorFields } from '../logger.ts'
import type { ActivityResult, Fault } from './activity.ts'
import { type Attempt, DeadlineError, type KnownActivity, run } from './attempt.ts'
import type { LifecycleEvent } from './lifecycle.ts'
import { Itinerary } from './routing-slip.ts'
import type { LogEntry, SlipState } from './slip-state.ts'

/** What a step makes of its slip: the state that travels on, or none at its end, and what there is to tell. */
export interface Transition {
  readonly next?: SlipState
  readonly events: readonly LifecycleEvent[]
}

export interface StepParts {
  readonly engine: string
  readonly activities: ReadonlyMap<string, KnownActivity>
  readonly clock: Clock
}

/**
 * Takes a slip one activity further: executes the next one, or compensates the last completed one.
 *
 * @throws RetryLaterError when the attempt should be made again, a permanent error when a human has to look
 */
export function advance(given: SlipState, delivery: Delivery, parts: StepParts): Promise<Transition> {
  const state = withFixedDeadline(given, delivery)
  return state.phase === 'execute' ? execute(state, delivery, parts) : compensate(state, delivery, parts)
}

async function execute(state: SlipState, delivery: Delivery, parts: StepParts): Promise<Transition> {
  const [current, ...rest] = state.itinerary
  if (!current) throw new InvalidSlipError(`routing slip "${state.id}" has nothing left to execute`)
  const known = knownActivity(current.activity, parts.activities)
  const deadline = deadlineOf(state)
  if (deadline !== undefined && parts.clock.now() >= deadline) return faulted(state, new DeadlineError())
  if (delivery.attempt > known.retry.maxAttempts) return faulted(state, exhausted(known), current.activity)
  const attempt: Attempt = {
    state,
    delivery,
    known,
    clock: parts.clock,
    step: state.step,
    idempotencyKey: `${parts.engine}/${state.id}/${state.step}`,
    ...(deadline !== undefined && { deadline }),
  }
  let result: ActivityResult
  try {
    const executed = await run(attempt, (context) =>
      known.activity.execute(current.args, Object.assign(context, { rest: new Itinerary(rest) })),
    )
    result = executed ?? {}
  } catch (thrown) {
    const error = toError(thrown)
    if (!isLast(attempt, error)) throw retryLater(attempt, error)
    return faulted(state, error, current.activity)
  }
  return completed(state, known, result, rest)
}

async function compensate(state: SlipState, delivery: Delivery, parts: StepParts): Promise<Transition> {
  const entry = state.log.at(-1)
  const { fault } = state
  if (!entry || !fault)
    throw new InvalidSlipError(`routing slip "${state.id}" has nothing left to compensate`)
  const known = knownActivity(entry.activity, parts.activities)
  const { activity } = known
  if (!activity.compensate) {
    throw new UnknownActivityError(
      `activity "${entry.activity}" had a compensation when it completed, now it has none`,
    )
  }
  if (delivery.attempt > known.retry.maxAttempts) throw exhausted(known)
  const idempotencyKey = `${parts.engine}/${state.id}/${entry.step}/compensate`
  const attempt: Attempt = { state, delivery, known, clock: parts.clock, step: entry.step, idempotencyKey }
  try {
    await run(attempt, (context) => activity.compensate?.(entry.log, Object.assign(context, { fault })))
  } catch (thrown) {
    const error = toError(thrown)
    if (!isLast(attempt, error)) throw retryLater(attempt, error)
    throw new PermanentError(`the compensation of activity "${entry.activity}" failed: ${error.message}`, {
      cause: error,
    })
  }
  return compensatedUpTo(state, state.log.slice(0, -1), fault)
}

function completed(
  state: SlipState,
  { activity }: KnownActivity,
  result: ActivityResult,
  rest: SlipState['itinerary'],
): Transition {
  assertStorable(activity.name, result)
  const { id: slipId, name: slipName, step } = state
  const about = { slipId, slipName, step, activity: activity.name }
  const variables = result.variables ? { ...state.variables, ...result.variables } : state.variables
  const stepCompleted: LifecycleEvent = { kind: 'stepCompleted', payload: about }
  if (result.terminate !== undefined) {
    const payload = { ...about, reason: String(result.terminate), variables }
    return { events: [stepCompleted, { kind: 'terminated', payload }] }
  }
  const itinerary = result.revise ? result.revise.steps : rest
  if (itinerary.length === 0) {
    return { events: [stepCompleted, { kind: 'completed', payload: { slipId, slipName, variables } }] }
  }
  const entry: LogEntry = { step, activity: activity.name, log: result.log }
  const log = activity.compensate ? [...state.log, entry] : state.log
  return { next: { ...state, step: step + 1, itinerary, variables, log }, events: [stepCompleted] }
}

function faulted(state: SlipState, error: Error, activity?: string): Transition {
  const fault: Fault = {
    step: state.step,
    ...(activity !== undefined && { activity }),
    ...errorFields(error),
  }
  const payload = { slipId: state.id, slipName: state.name, fault }
  const { next, events } = compensatedUpTo(
    { ...state, phase: 'compensate', itinerary: [], fault },
    state.log,
    fault,
  )
  return { ...(next && { next }), events: [{ kind: 'faulted', payload }, ...events] }
}

function compensatedUpTo(state: SlipState, log: readonly LogEntry[], fault: Fault): Transition {
  if (log.length > 0) return { next: { ...state, log }, events: [] }
  const payload = { slipId: state.id, slipName: state.name, fault }
  return { events: [{ kind: 'compensated', payload }] }
}

// Counted from the database's clock at the start, so that the same slip emitted again is the same event.
function withFixedDeadline(state: SlipState, delivery: Delivery): SlipState {
  if (!state.deadline || 'at' in state.deadline) return state
  return { ...state, deadline: { at: delivery.leased.createdAt + state.deadline.inMs } }
}

function deadlineOf({ deadline }: SlipState): number | undefined {
  return deadline && 'at' in deadline ? deadline.at : undefined
}

/** @throws UnknownActivityError */
export function knownActivity(name: string, activities: StepParts['activities']): KnownActivity {
  const known = activities.get(name)
  if (known) return known
  throw new UnknownActivityError(
    `activity "${name}" is not known here; give it to every SagaEngine of this name`,
  )
}

function isLast({ delivery, known }: Attempt, error: Error): boolean {
  return !delivery.abortReason && (isPermanent(error) || delivery.attempt >= known.retry.maxAttempts)
}

function retryLater({ delivery, known, deadline, clock }: Attempt, error: Error): RetryLaterError {
  const wanted = error instanceof RetryLaterError ? error.delayMs : known.retry.delayAfter(delivery.attempt)
  const delayMs = deadline === undefined ? wanted : Math.max(0, Math.min(wanted, deadline - clock.now()))
  const cause = error instanceof RetryLaterError ? (error.cause ?? error) : error
  return new RetryLaterError(`activity "${known.activity.name}" failed`, delayMs, { cause })
}

function exhausted({ activity, retry }: KnownActivity): PermanentError {
  return new PermanentError(
    `all ${retry.maxAttempts} attempts at activity "${activity.name}" ended without a report: the process died in them`,
  )
}

// What can't be stored can't be compensated either: the slip waits as a dead letter until the activity is mended.
function assertStorable(activity: string, { variables, log, revise }: ActivityResult): void {
  try {
    serialize({ variables, log, revise: revise?.steps })
  } catch (cause) {
    const { message } = toError(cause)
    throw new PermanentError(`activity "${activity}" returned what can't be stored: ${message}`, { cause })
  }
}
