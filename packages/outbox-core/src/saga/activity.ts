import type { RetryOptions } from '../delivering/retry.ts'
import type { Logger } from '../logger.ts'
import { type Duration, durationMs } from '../options.ts'
import type { Headers } from '../storage.ts'
import type { Stored } from '../stored.ts'
import type { Itinerary } from './itinerary.ts'
import { InvalidSlipError } from './slip-errors.ts'

/** Values that a slip carries from activity to activity, as JSON. */
export type Variables = Readonly<Record<string, unknown>>

/** What every activity and every compensation gets beside its arguments. */
export interface ActivityContext {
  readonly slipId: string
  readonly slipName: string
  /** Number of the activity within its slip, from 0; the same for its compensation. */
  readonly step: number
  /** 1 for the first attempt at this step. */
  readonly attempt: number
  /** What the slip began with and earlier activities added: a copy, changed by what activities return. */
  readonly variables: Variables
  /** What `engine.emit` was given; they travel with every step and lifecycle event. */
  readonly headers: Headers
  /** Aborted at the activity's timeout, at the slip's deadline, when the lease is lost and when the bus stops. */
  readonly signal: AbortSignal
  /** Adds slip id, activity and step to every line. */
  readonly logger: Logger
  /**
   * The same for every attempt at this step, different for its compensation: hand it to whatever the activity calls,
   * so that a repeated attempt has no second effect.
   */
  readonly idempotencyKey: string
}

/** What an activity gets beside its arguments. */
export interface ExecuteContext extends ActivityContext {
  /** The activities that come after this one. Return `{ revise: context.rest.add(…) }` to change them. */
  readonly rest: Itinerary
}

/** What a compensation gets beside its log. */
export interface CompensateContext extends ActivityContext {
  /** Why the slip is being compensated. */
  readonly fault: Fault
}

/** Why a slip failed. */
export interface Fault {
  /** The activity that failed; absent when the deadline passed between two activities. */
  readonly activity?: string
  readonly step: number
  /** The error's name, e.g. `'TimeoutError'`. */
  readonly name: string
  readonly code?: string
  readonly message: string
}

/** What an activity may return. */
export interface ActivityResult<Log = unknown> {
  /** Added to the slip's variables. */
  readonly variables?: Variables
  /** Handed to `compensate`, should it come to that. */
  readonly log?: Log
  /** Replaces what is left of the itinerary. */
  readonly revise?: Itinerary
  /** Ends the slip here, without compensation: nothing is left to do. The text says why. */
  readonly terminate?: string
}

/** What `execute` may return. */
// biome-ignore lint/suspicious/noConfusingVoidType: an activity that returns nothing is the common case
type Returned = ActivityResult | undefined | void

/** What `execute` returns as `log`, of any of the results it may have, as JSON gives it back. */
type LogOf<Result> = Stored<Result extends { readonly log?: infer Log } ? Log : undefined>

/** One kind of step: what to do, and how to undo it. */
export interface ActivityDefinition<Args, Log> {
  /**
   * Does the step. Runs outside any transaction, at least once; make it safe to repeat with `idempotencyKey`. What it
   * returns beside an `ActivityResult` means nothing.
   */
  execute(args: Args, context: ExecuteContext): Returned | Promise<Returned>
  /** Undoes a completed step. Gets what `execute` returned as `log`, as JSON gives it back. */
  compensate?(log: Log, context: CompensateContext): unknown
  /** For `execute` and `compensate` alike. @default the engine's policy */
  readonly retry?: RetryOptions
  /** Longest time of one attempt. @default the bus's `handlerTimeout` */
  readonly timeout?: Duration
}

/** An activity with its name, to be given to an engine and to routing slips. */
export interface Activity<Name extends string = string, Args = unknown, Log = unknown>
  extends ActivityDefinition<Args, Log> {
  readonly name: Name
}

/** What an activity is called, what it takes and what it leaves for its compensation; not what it does. */
export interface ActivityContract<Args = unknown, Log = unknown> {
  readonly name: string
  /** For types alone: a contract runs nothing. */
  execute?(args: Args, context: ExecuteContext): Returned | Promise<Returned>
  compensate?(log: Log, context: CompensateContext): unknown
}

/** What implements a contract. */
export interface Implementation<Args, Log>
  extends Omit<ActivityDefinition<Args, Log>, 'execute' | 'compensate'> {
  execute(args: Args, context: ExecuteContext): Implemented<Log> | Promise<Implemented<Log>>
  compensate?(log: Log, context: CompensateContext): unknown
}

type Implemented<Log> = undefined extends Log ? Returned : ActivityResult<Log> & { readonly log: Log }

/** A definition whose types are taken from it: from the result as a whole, so that it may have several shapes. */
interface Inferred<Args, Result extends Returned>
  extends Omit<ActivityDefinition<Args, never>, 'execute' | 'compensate'> {
  execute(args: Args, context: ExecuteContext): Result | Promise<Result>
  compensate?(log: LogOf<Result>, context: CompensateContext): unknown
}

/** Arguments that an activity would not get as they were given. */
interface NotAsJsonGivesItBack {
  readonly 'execute gets its arguments as JSON gives them back: text instead of a Date, no Map, Set or BigInt': never
}

/**
 * Declares an activity apart from what runs it, for processes that only start slips, or run other activities of them.
 *
 * @typeParam Args what `execute` takes, as JSON gives it back
 * @typeParam Log what `execute` returns as `log`, for `compensate`
 * @param name what stored slips know it by: letters, digits and _ . : / -, at most 128
 * @throws InvalidSlipError for a bad name
 */
export function activityContract<Args = unknown, Log = undefined>(name: string): ActivityContract<Args, Log> {
  return { name: checkedName(name) }
}

/**
 * Implements a contract.
 *
 * @throws ConfigurationError for a bad timeout
 */
export function activity<Args, Log>(
  contract: ActivityContract<Args, Log>,
  implementation: Implementation<Args, Log>,
): Activity<string, Args, Log>
/**
 * Defines an activity. The type of its arguments is taken from `execute`, that of its log from what `execute` returns.
 *
 * @param name what stored slips know it by: letters, digits and _ . : / -, at most 128
 * @throws InvalidSlipError for a bad name, ConfigurationError for a bad timeout
 */
export function activity<const Name extends string, Args, Result extends Returned>(
  name: Name,
  definition: Inferred<Args, Result> & (Args extends Stored<Args> ? unknown : NotAsJsonGivesItBack),
): Activity<Name, Args, LogOf<Result>>
export function activity(
  named: string | ActivityContract,
  definition: Pick<Activity, 'execute' | 'timeout'>,
): Activity {
  const name = checkedName(typeof named === 'object' ? named?.name : named)
  if (definition.timeout !== undefined) durationMs('timeout', definition.timeout)
  return { ...definition, name }
}

function checkedName(name: string): string {
  if (typeof name === 'string' && /^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$/.test(name)) return name
  throw new InvalidSlipError(
    `activity name ${JSON.stringify(name)} is not valid: a letter, then letters, digits and _ . : / -, at most 128`,
  )
}
