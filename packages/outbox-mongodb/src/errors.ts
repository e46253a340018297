import { OutboxError, StorageError, TransactionTimeoutError, toError, UnknownOutcomeError } from 'outbox-core'

interface MongoError extends Error {
  readonly code?: unknown
  hasErrorLabel?(label: string): boolean
}

// Not primary, stepping down, shutting down, host unreachable, write conflict, lock timeout, exceeded time limit.
const TRANSIENT_CODES = [6, 7, 24, 50, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436]
// The driver names one without its prefix: of a call that was cut short because the server's monitor got no answer.
const PASSING =
  /^(Mongo(Network|ServerSelection|PoolCleared|WaitQueueTimeout|OperationTimeout|WriteConcern|TopologyClosed)|PoolClearedOnNetwork)/

// After these nobody knows whether the server has applied a write. A server that can't be found may be the one that got
// the driver's first try; one that fails the write concern has applied the write and may have to roll it back.
const UNANSWERED =
  /^(Mongo(Network|ServerSelection|OperationTimeout|WriteConcern|ClientClosed|TopologyClosed)|PoolClearedOnNetwork)/

// The driver lets some errors of the socket through as they are.
const SOCKET = /^(ECONN\w+|EPIPE|ETIMEDOUT)$/

const CONFLICTING_OPERATION_IN_PROGRESS = 117
const TRANSACTION_EXCEEDED_LIFETIME = 290

export function hasCode(error: unknown, code: number): boolean {
  return Number((error as MongoError | null)?.code) === code
}

/** Whether the driver may run the whole transaction again. */
export function isTransientInTransaction(error: unknown): boolean {
  return label(error, 'TransientTransactionError')
}

/** What the driver threw, as an error of this library. */
function mongoError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = toError(thrown) as MongoError
  if (hasCode(cause, CONFLICTING_OPERATION_IN_PROGRESS)) {
    return new StorageError(
      'two operations began in one session at the same time, and MongoDB can only run one after the other; ' +
        'await each operation of the transaction before the next',
      { cause, transient: false },
    )
  }
  if (hasCode(cause, TRANSACTION_EXCEEDED_LIFETIME)) {
    return new TransactionTimeoutError(
      'the transaction took longer than transactionLifetimeLimitSeconds of the server allows, and was rolled back; ' +
        'make it smaller, or wait for nothing else in it',
      { cause },
    )
  }
  const transient =
    label(cause, 'RetryableWriteError') ||
    label(cause, 'TransientTransactionError') ||
    PASSING.test(cause.name) ||
    SOCKET.test(String(cause.code)) ||
    TRANSIENT_CODES.some((code) => hasCode(cause, code))
  return new StorageError(`MongoDB failed (${said(cause)}); nothing was written`, {
    cause,
    transient,
  })
}

/** The same for a write outside a transaction. */
export function mongoWriteError(thrown: unknown): OutboxError {
  const cause = toError(thrown) as MongoError
  const unanswered =
    UNANSWERED.test(cause.name) || SOCKET.test(String(cause.code)) || label(cause, 'RetryableWriteError')
  return unanswered ? unknownOutcome(cause) : mongoError(thrown)
}

/** The same for a commit: it certainly failed only when the server said so. */
export function mongoCommitError(thrown: unknown): OutboxError {
  const cause = toError(thrown)
  const refused = cause.name === 'MongoServerError' && !label(cause, 'UnknownTransactionCommitResult')
  return refused || isTransientInTransaction(cause) ? mongoError(thrown) : unknownOutcome(cause)
}

/** Does something with the driver; what it throws becomes an error of this library. */
export async function mapped<R>(
  work: Promise<R>,
  map: (error: unknown) => OutboxError = mongoError,
): Promise<R> {
  try {
    return await work
  } catch (error) {
    throw map(error)
  }
}

function unknownOutcome(cause: Error): UnknownOutcomeError {
  return new UnknownOutcomeError(
    `MongoDB did not confirm a write (${said(cause)}); it may or may not have happened, ` +
      'and repeating it with the same ids is safe',
    { cause },
  )
}

function said({ name, code, message }: MongoError): string {
  const what = `${name}${typeof code === 'number' ? ` ${code}` : ''}: ${message}`
  // A client whose first connection failed never tries another by itself.
  return name === 'MongoTopologyClosedError' ? `${what}; call client.connect()` : what
}

function label(error: unknown, name: string): boolean {
  const { hasErrorLabel } = (error ?? {}) as MongoError
  return typeof hasErrorLabel === 'function' && hasErrorLabel.call(error, name)
}
