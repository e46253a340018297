import type { Clock } from '../clock.ts'
import type { Attempt } from '../delivering/attempt.ts'
import { TimeoutError } from '../delivering/attempt-errors.ts'
import type { RetryPolicy } from '../delivering/retry.ts'
import { userHeaders } from '../emitting/event.ts'
import { OutboxError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { Activity, ActivityContext } from './activity.ts'
import type { SlipState } from './slip-state.ts'

/** An activity as its engine knows it: policy and timeout checked. */
export interface KnownActivity {
  readonly activity: Activity
  readonly retry: RetryPolicy
  readonly timeoutMs: number
}

/** Why an activity was aborted, or not begun: its slip's deadline has passed. */
export class DeadlineError extends OutboxError {
  readonly code = 'OUTBOX_DEADLINE'
  override readonly blame = 'event'

  constructor() {
    super("the routing slip's deadline has passed")
  }
}

/** One call of one activity: for which slip, in what context, and until when. */
export interface ActivityRun {
  readonly state: SlipState
  readonly attempt: Attempt
  readonly known: KnownActivity
  readonly clock: Clock
  readonly step: number
  readonly idempotencyKey: string
  /** Milliseconds until the slip's deadline. */
  readonly deadlineInMs?: number
}

/** Runs `work` until it ends, times out, meets the deadline, or the attempt is given up. */
export async function run<R>(
  activityRun: ActivityRun,
  work: (context: ActivityContext) => R | Promise<R>,
): Promise<R> {
  const { attempt, clock, known, deadlineInMs } = activityRun
  const own = new AbortController()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const end = (reason: Error): void => {
    own.abort(reason)
    reject(reason)
  }
  const cancels = [
    clock.after(known.timeoutMs, () =>
      end(new TimeoutError(`activity "${known.activity.name}" took longer than ${known.timeoutMs} ms`)),
    ),
  ]
  if (deadlineInMs !== undefined) cancels.push(clock.after(deadlineInMs, () => end(new DeadlineError())))
  attempt.place = 'handler'
  try {
    const signal = AbortSignal.any([attempt.signal, own.signal])
    return await attempt.attend(Promise.race([work(contextOf(activityRun, signal)), aborted]))
  } finally {
    for (const cancel of cancels) cancel()
  }
}

function contextOf(
  { state, attempt, step, idempotencyKey }: ActivityRun,
  signal: AbortSignal,
): ActivityContext {
  let variables: ActivityContext['variables'] | undefined
  return {
    slipId: state.id,
    slipName: state.name,
    step,
    attempt: attempt.number,
    // A copy: what travels on is changed by results alone.
    get variables(): ActivityContext['variables'] {
      variables ??= structuredClone(state.variables)
      return variables
    },
    headers: userHeaders(attempt.headers),
    signal,
    get logger(): Logger {
      return attempt.logger
    },
    idempotencyKey,
  }
}
