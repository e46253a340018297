import { OutboxError } from '../errors.ts'

/** A payload has more bytes than the saga store or its database takes. */
export class PayloadTooLargeError extends OutboxError {
  readonly code = 'OUTBOX_PAYLOAD_TOO_LARGE'
  override readonly blame = 'event'
  readonly limit: number
  readonly actual: number

  constructor(limit: number, actual: number, advice: string) {
    super(`the payload has ${actual} bytes, the limit is ${limit}; ${advice}`)
    this.limit = limit
    this.actual = actual
  }
}

/** Stored payload bytes are not what was written: damaged, cut short, or no payload frame at all. */
export class CorruptPayloadError extends OutboxError {
  readonly code = 'OUTBOX_CORRUPT_PAYLOAD'
  override readonly blame = 'event'
}

/** Stored payload bytes were written by a newer version, or with a codec this runtime lacks. */
export class UnsupportedPayloadError extends OutboxError {
  readonly code = 'OUTBOX_UNSUPPORTED_PAYLOAD'
  override readonly blame = 'process'
}

/** An encrypted payload does not authenticate: wrong key, or the bytes belong to another claim. */
export class PayloadAuthenticationError extends OutboxError {
  readonly code = 'OUTBOX_PAYLOAD_AUTHENTICATION'
  override readonly blame = 'event'
}

/** An encrypted payload names a key that is not configured. */
export class UnknownKeyError extends OutboxError {
  readonly code = 'OUTBOX_UNKNOWN_KEY'
  override readonly blame = 'process'
}

/** A claim id that no saga store would have given out; the database was not asked. */
export class InvalidClaimIdError extends OutboxError {
  readonly code = 'OUTBOX_INVALID_CLAIM_ID'
  override readonly blame = 'event'
}

/** An event's claim leads to no payload. */
export class ClaimNotFoundError extends OutboxError {
  readonly code = 'OUTBOX_CLAIM_NOT_FOUND'
  override readonly blame = 'event'
}

/** A payload's time to live ran out before its event was handled. */
export class ClaimExpiredError extends OutboxError {
  readonly code = 'OUTBOX_CLAIM_EXPIRED'
  override readonly blame = 'event'
}

/** A payload was given an expiry that has already passed. */
export class InvalidExpiryError extends OutboxError {
  readonly code = 'OUTBOX_INVALID_EXPIRY'
}
