import type { RetryOptions } from '../delivering/retry.ts'
import { InvalidSlipError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { type Duration, durationMs } from '../options.ts'
import type { Itinerary } from './routing-slip.ts'

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
  /** What the slip began with and earlier activities added. */
  readonly variables: Variables
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

/** One kind of step: what to do, and how to undo it. */
export interface ActivityDefinition<Args, Log> {
  /** Does the step. Runs outside any transaction, at least once; make it safe to repeat with `idempotencyKey`. */
  execute(
    args: Args,
    context: ExecuteContext,
    // biome-ignore lint/suspicious/noConfusingVoidType: an activity that returns nothing is the common case
  ): ActivityResult<Log> | void | Promise<ActivityResult<Log> | void>
  /** Undoes a completed step. Gets what `execute` returned as `log`. */
  compensate?(log: Log, context: CompensateContext): void | Promise<void>
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

/**
 * Defines an activity. The types of arguments and log are taken from `execute` and `compensate`.
 *
 * @param name what stored slips know it by: letters, digits and _ . : / -, at most 128
 * @throws InvalidSlipError for a bad name, ConfigurationError for a bad timeout
 */
export function activity<const Name extends string, Args, Log = unknown>(
  name: Name,
  definition: ActivityDefinition<Args, Log>,
): Activity<Name, Args, Log> {
  if (typeof name !== 'string' || !/^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$/.test(name)) {
    throw new InvalidSlipError(
      `activity name ${JSON.stringify(name)} is not valid: a letter, then letters, digits and _ . : / -, at most 128`,
    )
  }
  if (definition.timeout !== undefined) durationMs('timeout', definition.timeout)
  return { ...definition, name }
}
