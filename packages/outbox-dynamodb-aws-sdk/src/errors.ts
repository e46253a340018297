import { NotInitializedError, OutboxError, StorageError, toError, UnknownOutcomeError } from 'outbox-core'

/** Why one item of a transaction kept it from being written. */
export interface CancellationReason {
  readonly Code?: string
  readonly Message?: string
  readonly Item?: Readonly<Record<string, unknown>>
}

interface AwsError extends Error {
  readonly CancellationReasons?: readonly CancellationReason[]
  readonly $metadata?: { readonly httpStatusCode?: number; readonly attempts?: number }
  /** What came back, when it could not be read. */
  readonly $response?: { readonly statusCode?: number }
  readonly $retryable?: unknown
}

const TRANSIENT =
  /^(ProvisionedThroughputExceeded|Throttling|ThrottlingException|RequestLimitExceeded|TransactionConflict|TransactionInProgress|InternalServerError|ServiceUnavailable|LimitExceeded|ThrottledException|ReplicatedWriteConflict)/
const NETWORK =
  /ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|socket hang up|TimeoutError|AbortError|NetworkingError/
const NEVER_SENT = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN/
const TRANSIENT_REASON = /^(None|TransactionConflict|ProvisionedThroughputExceeded|ThrottlingError)$/

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

/** Whether the same transaction may go through a moment later: every reason has to be a passing one. */
export function mayPass(reasons: readonly CancellationReason[]): boolean {
  return reasons.length > 0 && reasons.every(({ Code = 'None' }) => TRANSIENT_REASON.test(Code))
}

/** Whether a condition on the item was not met; with what is there, when it was asked for. */
export function failedCondition(error: unknown): Readonly<Record<string, unknown>> | undefined {
  const { name } = toError(error)
  if (name !== 'ConditionalCheckFailedException') return undefined
  return (error as { Item?: Readonly<Record<string, unknown>> }).Item ?? {}
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
  const reasons = cancellationOf(cause)?.reasons
  const codes = reasons ? ` [${reasons.map(({ Code = 'None' }) => Code).join(', ')}]` : ''
  return new StorageError(`DynamoDB failed (${cause.name}${codes}: ${cause.message}); nothing was written`, {
    cause,
    transient: reasons ? mayPass(reasons) : isTransient(cause),
  })
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

function mayBeWritten(error: AwsError): boolean {
  const { httpStatusCode = 0, attempts = 1 } = error.$metadata ?? {}
  const text = textOf(error)
  if (NETWORK.test(text) && !NEVER_SENT.test(text)) return true
  // DynamoDB's own words on status 500: a write may have succeeded or failed.
  if (httpStatusCode >= 500 || error.name === 'InternalServerError') return true
  // An answer that was cut short, or is none of DynamoDB's.
  if (httpStatusCode < 300 && error.$response) return true
  // The error is that of the SDK's last try. What became of those before, it does not say.
  return attempts > 1 && isTransient(error)
}

/** What a request on a condition brings; undefined when the condition did not hold. */
export async function unlessRefused<R>(work: Promise<R>): Promise<R | undefined> {
  try {
    return await work
  } catch (error) {
    if (failedCondition(error)) return undefined
    throw error
  }
}

function isTransient(error: AwsError): boolean {
  return (
    TRANSIENT.test(error.name) ||
    NETWORK.test(textOf(error)) ||
    (error.$metadata?.httpStatusCode ?? 0) >= 500 ||
    !!error.$retryable
  )
}

function textOf(error: AwsError): string {
  return `${error.name} ${(error as { code?: string }).code ?? ''} ${error.message}`
}
