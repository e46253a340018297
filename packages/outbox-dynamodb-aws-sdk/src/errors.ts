import { NotInitializedError, OutboxError, StorageError, toError, UnknownOutcomeError } from 'outbox-core'
import type { Attributes } from './attributes.ts'
import {
  type AwsError,
  type CancellationReason,
  isIndexMissing,
  isPassing,
  isRefused,
  isUnencodable,
  mayBeWritten,
} from './classification.ts'

/** A transaction that was cancelled, with the reasons in the order of its items. */
export interface Cancellation {
  readonly reasons: readonly CancellationReason[]
  readonly cause: Error
}

/** The cancellation behind what the SDK threw. */
export function cancellationOf(error: unknown): Cancellation | undefined {
  const cause = toError(error) as AwsError
  return cause.name === 'TransactionCanceledException'
    ? { reasons: cause.CancellationReasons ?? [], cause }
    : undefined
}

/** Whether a condition on the item was not met; with what is there, when it was asked for. */
export function failedCondition(error: unknown): Attributes | undefined {
  const { name } = toError(error)
  if (name !== 'ConditionalCheckFailedException') return undefined
  return (error as { Item?: Attributes }).Item ?? {}
}

/** What the SDK threw, as an error of this library. */
export function dynamoError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = toError(thrown) as AwsError
  if (cause.name === 'ResourceNotFoundException') {
    return new NotInitializedError(
      'a table is missing; call outbox.initialize() once at start, or look at the tables that your own items name',
      { cause },
    )
  }
  if (isIndexMissing(cause)) {
    return new NotInitializedError(
      `DynamoDB says "${cause.message}"; make the tables after eventsTable() and payloadsTable()`,
      { cause },
    )
  }
  if (isUnencodable(cause)) return unencodable(cause)
  const reasons = cancellationOf(cause)?.reasons
  const codes = reasons ? ` [${reasons.map(({ Code = 'None' }) => Code).join(', ')}]` : ''
  const status = cause.name === 'Unknown' ? ` with status ${cause.$metadata?.httpStatusCode}` : ''
  return new StorageError(
    `DynamoDB failed${status} (${cause.name}${codes}: ${cause.message}); nothing was written`,
    { cause, transient: isPassing(cause), refused: isRefused(cause) },
  )
}

/** The same for a write: when no answer came, or no clear one, nobody knows whether it was applied. */
export function dynamoWriteError(thrown: unknown): OutboxError {
  const cause = toError(thrown) as AwsError
  if (thrown instanceof OutboxError || !mayBeWritten(cause)) return dynamoError(thrown)
  return new UnknownOutcomeError(
    `no answer came from DynamoDB (${cause.message}); the write may or may not have happened`,
    {
      cause,
    },
  )
}

/** What a request on a condition brings; undefined when the condition did not hold. */
export async function ifConditionHolds<R>(work: Promise<R>): Promise<R | undefined> {
  try {
    return await work
  } catch (error) {
    if (failedCondition(error)) return undefined
    throw error
  }
}

// The encoder's messages quote the value.
function unencodable({ message }: AwsError): StorageError {
  const said = message
    .replace(/^(Unsupported type passed): .*(\. Pass options)/s, '$1$2')
    .replace(/^(Number|BigInt) \S+/, 'a number')
  return new StorageError(`the document client can't encode a value (${said}); nothing was sent`, {
    cause: new Error(said),
    transient: false,
    refused: true,
  })
}
