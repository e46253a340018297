import { OutboxError } from '../errors.ts'

/** A routing slip without a single activity. */
export class EmptyItineraryError extends OutboxError {
  readonly code = 'OUTBOX_EMPTY_ITINERARY'
}

/** A routing slip names an activity that its engine does not know. */
export class UnknownActivityError extends OutboxError {
  readonly code = 'OUTBOX_UNKNOWN_ACTIVITY'
  override readonly blame = 'process'
}

/** A routing slip was written by a newer version. */
export class UnsupportedSlipError extends OutboxError {
  readonly code = 'OUTBOX_UNSUPPORTED_SLIP'
  override readonly blame = 'process'
}

/** The stored state of a routing slip is not one. */
export class InvalidSlipError extends OutboxError {
  readonly code = 'OUTBOX_INVALID_SLIP'
  override readonly blame = 'event'
}
