import { clampedDelayMs, type Duration } from '../duration.ts'
import { addressedTo, typeOf } from '../emitting/address.ts'
import { OutboxError } from '../errors.ts'

/** The database has not answered within the time that a worker waits for it; it may still do what it was asked to. */
export class UnansweredError extends OutboxError {
  readonly code = 'OUTBOX_UNANSWERED'

  constructor(ms: number) {
    super(`the database has not answered within ${ms} ms`)
  }
}

/** No handler is registered for an event's type. */
export class HandlerMissingError extends OutboxError {
  readonly code = 'OUTBOX_HANDLER_MISSING'
  override readonly blame = 'process'

  /** @param address the event's */
  constructor(address: string) {
    const type = typeOf(address)
    const recipient = addressedTo(address)
    super(
      recipient === undefined
        ? `no worker has a handler for event "${type}"; call bus.on("${type}", …) in a process that calls start()`
        : `no worker has what event "${type}" is for, "${recipient}": start one with that activity, or with a handler of that name`,
    )
  }
}

/** A handler, an activity or `waitFor` took longer than allowed. */
export class TimeoutError extends OutboxError {
  readonly code = 'OUTBOX_TIMEOUT'
}

/** Why a handler's signal was aborted: its lease went to another worker, so its outcome won't count. */
export class LeaseLostError extends OutboxError {
  readonly code = 'OUTBOX_LEASE_LOST'
}

/** Why a handler's signal was aborted: the bus is stopping. The attempt does not count. */
export class StoppingError extends OutboxError {
  readonly code = 'OUTBOX_STOPPING'
}

/** An event's claim, and no middleware of this process that takes it. */
export class ClaimUntakenError extends OutboxError {
  readonly code = 'OUTBOX_CLAIM_UNTAKEN'
  override readonly blame = 'process'

  constructor(type: string) {
    super(
      `event "${type}" has its payload in a saga store, and no claim check of this process takes it; ` +
        'bus.use(claimCheck(store)) in every process that handles it, with this type among its types',
    )
  }
}

/** Throw it from a handler or an activity when trying again can't help: no further attempt is made. */
export class PermanentError extends OutboxError {
  readonly code = 'OUTBOX_PERMANENT'
  override readonly blame = 'event'
}

/** Throw it from a handler or an activity to choose when the next attempt is made; attempts still run out. */
export class RetryLaterError extends OutboxError {
  readonly code = 'OUTBOX_RETRY_LATER'
  /**
   * Milliseconds until the next attempt, whole, from 0 to a century; `undefined` when what was given is no time (a
   * header that was not there, say): then the retry policy decides.
   */
  readonly delayMs: number | undefined

  /** @param delay milliseconds, or text such as `'30s'` */
  constructor(message: string, delay: Duration, options?: ErrorOptions) {
    super(message, options)
    this.delayMs = clampedDelayMs(delay)
  }
}
