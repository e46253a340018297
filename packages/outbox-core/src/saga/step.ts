import type { Clock } from '../clock.ts'
import type { Attempt } from '../delivering/attempt.ts'
import { PermanentError, RetryLaterError } from '../delivering/attempt-errors.ts'
import { isLastAttempt } from '../delivering/judgement.ts'
import { serialize } from '../emitting/serialize.ts'
import { errFields, errorFields, toError } from '../thrown.ts'
import type { ActivityResult, ExecuteContext, Fault } from './activity.ts'
import { type ActivityRun, DeadlineError, type KnownActivity, run } from './activity-run.ts'
import { Itinerary } from './itinerary.ts'
import type { LifecycleEvent } from './lifecycle.ts'
import { InvalidSlipError, UnknownActivityError } from './slip-errors.ts'
import type { LogEntry, SlipState } from './slip-state.ts'

/** What a step makes of its slip: the state that travels on, or none at its end, and what there is to tell. */
export interface Transition {
  readonly next?: SlipState
  readonly events: readonly LifecycleEvent[]
}

export interface StepParts {
  readonly engine: string
  /** Those that run here. */
  readonly activities: ReadonlyMap<string, KnownActivity>
  /** The names of all that slips may name. */
  readonly names: ReadonlySet<string>
  readonly clock: Clock
}

/**
 * Takes a slip one activity further: executes the next one, or compensates the last completed one.
 *
 * @throws RetryLaterError when the attempt should be made again; what can't be answered by a compensation otherwise
 */
export function advance(given: SlipState, attempt: Attempt, parts: StepParts): Promise<Transition> {
  const state = withFixedDeadline(given, attempt)
  return state.phase === 'execute' ? execute(state, attempt, parts) : compensate(state, attempt, parts)
}

async function execute(state: SlipState, attempt: Attempt, parts: StepParts): Promise<Transition> {
  const [current, ...rest] = state.itinerary
  if (!current) throw new InvalidSlipError(`routing slip "${state.id}" has nothing left to execute`)
  const { step } = state
  attempt.about = { activity: current.activity, step }
  const known = knownActivity(current.activity, parts.activities)
  const deadlineInMs = untilDeadline(state, attempt, parts.clock)
  if (deadlineInMs !== undefined && deadlineInMs <= 0) return failed(attempt, state, new DeadlineError())
  // Whether one of them has had its effect is not known: as failed, it would be left out of the compensation.
  if (attempt.number > known.retry.maxAttempts) throw exhausted(known)
  const activityRun: ActivityRun = {
    ...{ state, attempt, known, clock: parts.clock, step },
    idempotencyKey: `${parts.engine}/${state.id}/${step}`,
    ...(deadlineInMs !== undefined && { deadlineInMs }),
  }
  let result: ActivityResult
  try {
    const executed = await run(activityRun, (context) =>
      known.activity.execute(current.args, withRest(context, rest)),
    )
    result = typeof executed === 'object' && executed !== null ? executed : {}
  } catch (thrown) {
    const error = toError(thrown)
    if (!isLast(activityRun, error)) throw retryLater(activityRun, error)
    return failed(attempt, state, error, current.activity)
  }
  attempt.place = 'writing'
  assertStorable(known.activity.name, result, parts.names)
  return completed(state, known, result, rest)
}

async function compensate(state: SlipState, attempt: Attempt, parts: StepParts): Promise<Transition> {
  const entry = state.log.at(-1)
  const { fault } = state
  if (!entry || !fault)
    throw new InvalidSlipError(`routing slip "${state.id}" has nothing left to compensate`)
  const { step } = entry
  attempt.about = { activity: entry.activity, step }
  const known = knownActivity(entry.activity, parts.activities)
  const { activity } = known
  if (!activity.compensate) {
    throw new UnknownActivityError(
      `activity "${entry.activity}" had a compensation when it completed, now it has none`,
    )
  }
  if (attempt.number > known.retry.maxAttempts) throw exhausted(known)
  const idempotencyKey = `${parts.engine}/${state.id}/${step}/compensate`
  const activityRun: ActivityRun = { state, attempt, known, clock: parts.clock, step, idempotencyKey }
  try {
    await run(activityRun, (context) =>
      activity.compensate?.(entry.log, Object.assign(context, { fault: { ...fault } })),
    )
  } catch (thrown) {
    const error = toError(thrown)
    if (!isLast(activityRun, error)) throw retryLater(activityRun, error)
    throw new PermanentError(
      `the compensation of activity "${entry.activity}" failed: ${errorFields(error).message}`,
      { cause: error },
    )
  }
  attempt.place = 'writing'
  return compensatedUpTo(state, state.log.slice(0, -1), fault)
}

function completed(
  state: SlipState,
  { activity }: KnownActivity,
  result: ActivityResult,
  rest: SlipState['itinerary'],
): Transition {
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

/** An activity has failed for good: what completed before it is compensated. */
function failed(attempt: Attempt, state: SlipState, error: Error, activity?: string): Transition {
  attempt.place = 'writing'
  attempt.failure = error
  attempt.logger.error(errFields(error), 'activity failed for good, its slip is compensated')
  return faulted(state, error, activity)
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

// Counted from the start, by the database's clock, so that the same slip emitted again is the same event.
function withFixedDeadline(state: SlipState, attempt: Attempt): SlipState {
  if (!state.deadline || 'at' in state.deadline) return state
  return { ...state, deadline: { at: attempt.leased.createdAt + state.deadline.inMs } }
}

// By the database's clock as well: that of this process may be another.
function untilDeadline({ deadline }: SlipState, attempt: Attempt, clock: Clock): number | undefined {
  if (!deadline || !('at' in deadline)) return undefined
  return deadline.at - attempt.databaseNow(clock.elapsed())
}

/** @throws UnknownActivityError */
export function assertKnown(name: string, names: ReadonlySet<string>): void {
  if (!names.has(name)) throw unknown(name)
}

/** @throws UnknownActivityError */
function knownActivity(name: string, activities: StepParts['activities']): KnownActivity {
  const known = activities.get(name)
  if (known) return known
  throw unknown(name)
}

function unknown(name: string): UnknownActivityError {
  return new UnknownActivityError(
    `activity "${name}" is not known here; give it, or its contract, to every SagaEngine of this name`,
  )
}

function isLast({ attempt, known }: ActivityRun, error: Error): boolean {
  return !attempt.abortReason && isLastAttempt(error, attempt.number, known.retry)
}

function retryLater({ state, attempt, known, clock }: ActivityRun, error: Error): RetryLaterError {
  const chosen = error instanceof RetryLaterError ? error.delayMs : undefined
  const wanted = chosen ?? known.retry.delayAfter(attempt.number)
  const left = untilDeadline(state, attempt, clock)
  const delayMs = left === undefined ? wanted : Math.max(0, Math.min(wanted, left))
  const cause = error instanceof RetryLaterError ? (error.cause ?? error) : error
  return new RetryLaterError(`activity "${known.activity.name}" failed`, delayMs, { cause })
}

function exhausted({ activity, retry }: KnownActivity): PermanentError {
  return new PermanentError(
    `the last of ${retry.maxAttempts} attempts at activity "${activity.name}" ended without a report: its process died or could not write down what came of it`,
  )
}

function withRest(context: object, rest: SlipState['itinerary']): ExecuteContext {
  let itinerary: Itinerary | undefined
  return Object.defineProperty(context as ExecuteContext, 'rest', {
    enumerable: true,
    // A copy, as the variables are.
    get: () => {
      itinerary ??= new Itinerary(structuredClone(rest))
      return itinerary
    },
  })
}

// What can't be stored can't be compensated either: the slip waits as a dead letter until the activity is mended.
function assertStorable(activity: string, result: ActivityResult, names: ReadonlySet<string>): void {
  const { variables, log, revise } = result
  try {
    if (variables !== undefined && (typeof variables !== 'object' || Array.isArray(variables)))
      throw new InvalidSlipError('its variables are no object')
    if (revise !== undefined && !Array.isArray(revise?.steps))
      throw new InvalidSlipError('what is to be revised to is no itinerary')
    for (const step of revise?.steps ?? []) assertKnown(step.activity, names)
    serialize({ variables, log, revise: revise?.steps })
  } catch (cause) {
    const { message } = errorFields(toError(cause))
    throw new PermanentError(`activity "${activity}" returned what can't be stored: ${message}`, { cause })
  }
}
