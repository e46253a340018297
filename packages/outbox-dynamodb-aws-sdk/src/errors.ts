import {
  NotInitializedError,
  OutboxError,
  StorageError,
  TransactionTooLargeError,
  toError,
  UnknownOutcomeError,
} from 'outbox-core'

/** Why one item of a transaction kept it from being written. */
export interface CancellationReason {
  readonly Code?: string
  readonly Message?: string
  readonly Item?: Readonly<Record<string, unknown>>
}

interface AwsError extends Error {
  readonly CancellationReasons?: readonly CancellationReason[]
  readonly $metadata?: { readonly httpStatusCode?: number }
  readonly $retryable?: unknown
}

const TRANSIENT =
  /^(ProvisionedThroughputExceeded|Throttling|ThrottlingException|RequestLimitExceeded|TransactionConflict|TransactionInProgress|InternalServerError|ServiceUnavailable|LimitExceeded|ThrottledException|ReplicatedWriteConflict)/
const NETWORK =
  /ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|socket hang up|TimeoutError|AbortError|NetworkingError/
const NEVER_SENT = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN/
const TRANSIENT_REASON = /^(None|TransactionConflict|ProvisionedThroughputExceeded|ThrottlingError)$/

/** The reasons of a cancelled transaction, in the order of its items. */
export function cancellationReasons(error: unknown): readonly CancellationReason[] | undefined {
  const { name, CancellationReasons } = toError(error) as AwsError
  return name === 'TransactionCanceledException' ? (CancellationReasons ?? []) : undefined
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
      'a table of the outbox is missing; call outbox.initialize() once at start',
      { cause },
    )
  }
  const reasons = cancellationReasons(cause)
  const codes = reasons ? ` [${reasons.map(({ Code = 'None' }) => Code).join(', ')}]` : ''
  return new StorageError(`DynamoDB failed (${cause.name}${codes}: ${cause.message}); nothing was written`, {
    cause,
    transient: reasons ? mayPass(reasons) : isTransient(cause),
  })
}

/** The same for a write: when no answer came, nobody knows whether it was applied. */
export function dynamoWriteError(thrown: unknown): OutboxError {
  const cause = toError(thrown) as AwsError
  const text = `${cause.name} ${(cause as { code?: string }).code ?? ''} ${cause.message}`
  if (thrown instanceof OutboxError || !NETWORK.test(text) || NEVER_SENT.test(text))
    return dynamoError(thrown)
  return new UnknownOutcomeError(
    `no answer came from DynamoDB (${cause.message}); the write may or may not have happened`,
    {
      cause,
    },
  )
}

/** @throws TransactionTooLargeError */
export function assertFits(unit: string, limit: number, actual: number): void {
  if (actual > limit) throw new TransactionTooLargeError(unit, limit, actual)
}

function isTransient(error: AwsError): boolean {
  const text = `${error.name} ${(error as { code?: string }).code ?? ''} ${error.message}`
  return (
    TRANSIENT.test(error.name) ||
    NETWORK.test(text) ||
    (error.$metadata?.httpStatusCode ?? 0) >= 500 ||
    !!error.$retryable
  )
}
