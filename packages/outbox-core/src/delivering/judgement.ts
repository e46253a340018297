import { type Blame, blameOf } from '../errors.ts'
import { LeaseLostError, RetryLaterError, StoppingError } from './attempt-errors.ts'
import type { RetryPolicy } from './retry.ts'

/** Where in an attempt something failed: on the way to the handler, in it, or in writing what came of it. */
export type Place = 'before' | 'handler' | 'writing'

/**
 * What becomes of an event whose attempt failed:
 *
 * - **release**: given back at once, as if the attempt had not been
 * - **defer**: given back after a pause that grows with the event's age, not counted
 * - **retry**: attempted again by its policy, counted; a dead letter when its attempts have run out
 * - **bury**: a dead letter at once
 */
export type Verdict =
  | { readonly kind: 'release' }
  | { readonly kind: 'defer'; readonly delayMs: number }
  | { readonly kind: 'retry'; readonly delayMs: number }
  | { readonly kind: 'bury' }

/** The judgement of failures: where it failed, times what it is down to. docs/guarantees.md has the same table. */
const VERDICTS: Readonly<Record<Place, Readonly<Record<Blame, 'bury' | 'retry' | 'defer' | 'deferWithin'>>>> =
  {
    before: { event: 'bury', process: 'deferWithin', environment: 'defer' },
    handler: { event: 'bury', process: 'retry', environment: 'retry' },
    writing: { event: 'bury', process: 'defer', environment: 'defer' },
  }

/** What is known of the attempt that failed. */
export interface Failed {
  readonly place: Place
  readonly error: Error
  /** Why its handler was told to end, where it was. */
  readonly abortReason: Error | undefined
  /** Attempts that count, this one included. */
  readonly attempt: number
  readonly policy: RetryPolicy
  /** How long ago the event was stored. */
  readonly ageMs: number
  /** Whether others have had their time to come and take what this process can't handle. */
  readonly outOfPatience: () => boolean
}

export function judge(failed: Failed): Verdict {
  const { place, error, abortReason, policy, attempt } = failed
  if (abortReason instanceof StoppingError || abortReason instanceof LeaseLostError)
    return { kind: 'release' }
  const verdict = VERDICTS[place][blameOf(error) ?? 'environment']
  switch (verdict) {
    case 'bury':
      return { kind: 'bury' }
    case 'retry':
      return isLastAttempt(error, attempt, policy)
        ? { kind: 'bury' }
        : { kind: 'retry', delayMs: chosenDelay(error) ?? policy.delayAfter(attempt) }
    case 'deferWithin':
      if (failed.outOfPatience()) return { kind: 'bury' }
  }
  return { kind: 'defer', delayMs: chosenDelay(error) ?? deferralMs(failed.ageMs) }
}

/** Whether a handler or an activity that failed like this is not called again. */
export function isLastAttempt(error: Error, attempt: number, policy: RetryPolicy): boolean {
  return blameOf(error) === 'event' || attempt >= policy.maxAttempts
}

/** The error that a failure is down to, where it was only wrapped to choose a delay. */
export function causeOf(error: Error): Error {
  return error instanceof RetryLaterError && error.cause instanceof Error ? error.cause : error
}

const SHORTEST_DEFERRAL_MS = 20
const LONGEST_DEFERRAL_MS = 60_000

/** A tenth of the event's age: soon at first, when another worker is most likely there, ever more rarely later. */
function deferralMs(ageMs: number): number {
  const share = (ageMs / 10) * (0.75 + Math.random() / 2)
  return Math.round(Math.min(Math.max(share, SHORTEST_DEFERRAL_MS), LONGEST_DEFERRAL_MS))
}

function chosenDelay(error: Error): number | undefined {
  return error instanceof RetryLaterError ? error.delayMs : undefined
}
