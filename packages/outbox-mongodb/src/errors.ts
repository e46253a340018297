import { types } from 'node:util'
import {
  alsoOf,
  NotInitializedError,
  OutboxError,
  StorageError,
  TransactionTimeoutError,
  toError,
  UnknownOutcomeError,
} from 'outbox-core'
import { PASSING_CODES, REFUSED_CODES } from './error-codes.ts'

interface MongoError extends Error {
  readonly code?: unknown
  readonly codeName?: unknown
  readonly errorResponse?: unknown
  readonly errorLabels?: readonly string[]
  hasErrorLabel?(label: string): boolean
}

// The driver names one without its prefix: of a call that was cut short because the server's monitor got no answer.
const PASSING =
  /^(Mongo(Network|ServerSelection|PoolCleared|WaitQueueTimeout|OperationTimeout|WriteConcern|TopologyClosed)|PoolClearedOnNetwork)/

// After these nobody knows whether the server has applied a write. A server that can't be found may be the one that got
// the driver's first try; one that fails the write concern has applied the write and may have to roll it back.
const UNANSWERED =
  /^(Mongo(Network|ServerSelection|OperationTimeout|WriteConcern|ClientClosed|TopologyClosed)|PoolClearedOnNetwork)/

// The driver lets some errors of the socket through as they are.
const SOCKET = /^(ECONN\w+|EPIPE|ETIMEDOUT)$/

// What the driver and its encoder refuse before anything is sent.
const UNSENT = /^(MongoInvalidArgumentError|BSON\w*Error)$/
const UNENCODABLE = /^ERR_(OUT_OF_RANGE|INVALID_ARG_(TYPE|VALUE))$/
// Of a typed array that was written to past its end.
const PAST_THE_END = /offset is out of bounds/i

// Only these carry what the server said about a statement.
const FROM_THE_SERVER = /^Mongo(Server|BulkWrite|WriteConcern)Error$/
// Values in quotes and documents in braces: from the first that opens to the last that closes.
const VALUES = /(?<!\w)['"{](?:.*['"}](?!\w)|.*$)/s

const BAD_VALUE = 2
const INDEX_NOT_FOUND = 27
const DUPLICATE_KEY = 11000
const CONFLICTING_OPERATION_IN_PROGRESS = 117
const TRANSACTION_EXCEEDED_LIFETIME = 290

export function hasCode(error: unknown, code: number): boolean {
  return codeOf(error) === code
}

/** Whether the driver may run the whole transaction again. */
export function isTransientInTransaction(error: unknown): boolean {
  return label(error, 'TransientTransactionError')
}

/**
 * What the driver threw, as an error of this library. No document, value or payload is ever part of it. Where the driver
 * may run the transaction again, whoever began it, it is an error of the driver's as well, with its labels.
 */
export function mongoError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const error = unwrapped(thrown)
  const ours = described(error, freed(error))
  if (!isForTheDriver(error)) return ours
  return labelled(alsoOf(ours, Object.getPrototypeOf(error)), error)
}

function described(error: MongoError, cause: Error): OutboxError {
  if (hasCode(error, CONFLICTING_OPERATION_IN_PROGRESS)) {
    return new StorageError(
      'two operations began in one session at the same time, and MongoDB can only run one after the other; ' +
        'await each operation of the transaction before the next',
      { cause, transient: false },
    )
  }
  if (hasCode(error, TRANSACTION_EXCEEDED_LIFETIME)) {
    return new TransactionTimeoutError(
      'the transaction took longer than transactionLifetimeLimitSeconds of the server allows, and was rolled back; ' +
        'make it smaller, or wait for nothing else in it',
      { cause },
    )
  }
  if (lacksIndex(error)) {
    return new NotInitializedError(
      "an index of the outbox's collections is missing or hidden, as after they were dropped; call outbox.initialize()",
      { cause },
    )
  }
  const transient = isPassing(error)
  return new StorageError(`MongoDB failed (${said(cause)}); nothing was written`, {
    cause,
    transient,
    refused: !transient && isRefused(error),
  })
}

/** The same for a write outside a transaction. */
export function mongoWriteError(thrown: unknown): OutboxError {
  const error = unwrapped(thrown)
  const unanswered =
    UNANSWERED.test(error.name) || SOCKET.test(String(error.code)) || label(error, 'RetryableWriteError')
  return unanswered ? unknownOutcome(freed(error)) : mongoError(thrown)
}

/** The same for a commit: it certainly failed only when the server said so. */
export function mongoCommitError(thrown: unknown): OutboxError {
  const error = unwrapped(thrown)
  const refused = error.name === 'MongoServerError' && !label(error, 'UnknownTransactionCommitResult')
  return refused || isTransientInTransaction(error) ? mongoError(thrown) : unknownOutcome(freed(error))
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

/** Collections that were dropped come back with the next write, but without the indexes that statements name. */
function lacksIndex(error: MongoError): boolean {
  return (
    hasCode(error, INDEX_NOT_FOUND) ||
    (hasCode(error, BAD_VALUE) &&
      /hint provided does not correspond to an existing index/.test(error.message))
  )
}

/** Whether the same may succeed later. */
export function isPassing(thrown: unknown): boolean {
  const error = toError(thrown) as MongoError
  return (
    label(error, 'RetryableWriteError') ||
    label(error, 'TransientTransactionError') ||
    PASSING.test(error.name) ||
    SOCKET.test(String(error.code)) ||
    PASSING_CODES.has(codeOf(error)) ||
    // Two writers of one id at the same moment; the second will find what the first has written.
    (hasCode(error, DUPLICATE_KEY) && /index: _id_\s/.test(error.message))
  )
}

function isRefused(error: MongoError): boolean {
  return (
    REFUSED_CODES.has(codeOf(error)) ||
    UNSENT.test(error.name) ||
    UNENCODABLE.test(String(error.code)) ||
    (error.name === 'RangeError' && PAST_THE_END.test(error.message))
  )
}

/** What made a bulk write fail, which the driver may wrap: with neither name nor class of its own. */
function unwrapped(thrown: unknown): MongoError {
  const error = toError(thrown) as MongoError
  const isWrapper = error.name === 'MongoBulkWriteError' && types.isNativeError(error.errorResponse)
  return isWrapper ? (error.errorResponse as MongoError) : error
}

/** The server's errors have the statement's values in them: the operation, the key, what a validator disliked. */
function freed(error: MongoError): Error {
  if (!FROM_THE_SERVER.test(error.name)) return error
  const clean: Error & { code?: unknown; codeName?: unknown } = new Error(error.message.replace(VALUES, '…'))
  if (isForTheDriver(error)) labelled(Object.setPrototypeOf(clean, Object.getPrototypeOf(error)), error)
  Object.defineProperty(clean, 'name', { value: error.name, configurable: true, writable: true })
  if (error.code !== undefined) clean.code = codeOf(error)
  if (error.codeName !== undefined) clean.codeName = String(error.codeName)
  return clean
}

function isForTheDriver(error: MongoError): boolean {
  return isTransientInTransaction(error) || label(error, 'UnknownTransactionCommitResult')
}

/** Gives an error the labels of the driver's: the driver must see them to run a transaction again. */
function labelled<E extends Error>(error: E, { errorLabels }: MongoError): E {
  const labels = new Set(errorLabels)
  return Object.defineProperties(error, {
    errorLabels: { get: () => [...labels] },
    hasErrorLabel: { value: (one: string) => labels.has(one) },
    addErrorLabel: { value: (one: string) => void labels.add(one) },
  })
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

// A number, or a BSON one where the client promotes none.
function codeOf(error: unknown): number {
  return Number((error as MongoError | null)?.code)
}

function label(error: unknown, name: string): boolean {
  const { hasErrorLabel } = (error ?? {}) as MongoError
  return typeof hasErrorLabel === 'function' && hasErrorLabel.call(error, name)
}
