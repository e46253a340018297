import type { Clock } from '../clock.ts'
import type { Delivery } from '../delivering/delivery.ts'
import type { RetryPolicy } from '../delivering/retry.ts'
import { OutboxError, TimeoutError } from '../errors.ts'
import { type Logger, withFields } from '../logger.ts'
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

/** One attempt at one step: who runs it, in what context, and until when. */
export interface Attempt {
  readonly state: SlipState
  readonly delivery: Delivery
  readonly known: KnownActivity
  readonly clock: Clock
  readonly step: number
  readonly idempotencyKey: string
  /** Milliseconds since the epoch. */
  readonly deadline?: number
}

/** Runs `work` until it ends, times out, meets the deadline, or the delivery is aborted. */
export async function run<R>(
  attempt: Attempt,
  work: (context: ActivityContext) => R | Promise<R>,
): Promise<R> {
  const { delivery, clock, known, deadline } = attempt
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
  if (deadline !== undefined)
    cancels.push(clock.after(deadline - clock.now(), () => end(new DeadlineError())))
  try {
    const signal = AbortSignal.any([delivery.signal, own.signal])
    return await Promise.race([work(context(attempt, signal)), aborted])
  } finally {
    for (const cancel of cancels) cancel()
  }
}

function context(
  { state, delivery, known, step, idempotencyKey }: Attempt,
  signal: AbortSignal,
): ActivityContext {
  return {
    slipId: state.id,
    slipName: state.name,
    step,
    attempt: delivery.attempt,
    variables: state.variables,
    signal,
    get logger(): Logger {
      return withFields(delivery.logger, { activity: known.activity.name, step })
    },
    idempotencyKey,
  }
}
