import { OutboxError, StorageError, toError, UnknownOutcomeError } from 'outbox-core'

interface MongoError extends Error {
  readonly code?: unknown
  hasErrorLabel?(label: string): boolean
}

// Not primary, stepping down, shutting down, host unreachable, write conflict, lock timeout, exceeded time limit.
const TRANSIENT_CODES = [6, 7, 24, 50, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436]
const NETWORK = /^Mongo(Network|ServerSelection|PoolCleared|WaitQueueTimeout|NetworkTimeout)/

export function hasCode(error: unknown, code: number): boolean {
  return (error as MongoError | null)?.code === code
}

/** Whether the driver may run the whole transaction again. */
export function isTransientInTransaction(error: unknown): boolean {
  return label(error, 'TransientTransactionError')
}

/** What the driver threw, as an error of this library. */
export function mongoError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = toError(thrown) as MongoError
  if (label(cause, 'UnknownTransactionCommitResult')) return unknownOutcome(cause)
  const transient =
    label(cause, 'RetryableWriteError') ||
    label(cause, 'TransientTransactionError') ||
    NETWORK.test(cause.name) ||
    TRANSIENT_CODES.some((code) => hasCode(cause, code))
  const code = typeof cause.code === 'number' ? `${cause.name} ${cause.code}` : cause.name
  return new StorageError(`MongoDB failed (${code}: ${cause.message}); nothing was written`, {
    cause,
    transient,
  })
}

/** The same for a write outside a transaction: when the connection is gone, nobody knows whether it was applied. */
export function mongoWriteError(thrown: unknown): OutboxError {
  const cause = toError(thrown)
  const lost = /^MongoNetwork/.test(cause.name) || label(cause, 'RetryableWriteError')
  return !(thrown instanceof OutboxError) && lost ? unknownOutcome(cause) : mongoError(thrown)
}

function unknownOutcome(cause: Error): UnknownOutcomeError {
  return new UnknownOutcomeError(
    `the connection to MongoDB was lost during a write (${cause.message}); it may or may not have happened`,
    { cause },
  )
}

function label(error: unknown, name: string): boolean {
  const { hasErrorLabel } = (error ?? {}) as MongoError
  return typeof hasErrorLabel === 'function' && hasErrorLabel.call(error, name)
}
