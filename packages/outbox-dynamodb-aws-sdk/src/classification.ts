/** Why one item of a transaction kept it from being written. */
export interface CancellationReason {
  readonly Code?: string
  readonly Message?: string
  readonly Item?: Readonly<Record<string, unknown>>
}

/** What the SDK's errors carry. */
export interface AwsError extends Error {
  readonly code?: string
  readonly CancellationReasons?: readonly CancellationReason[]
  /** Added by the SDK's retries to whatever passes them: an error without was thrown before anything was sent. */
  readonly $metadata?: { readonly httpStatusCode?: number; readonly attempts?: number }
  readonly $retryable?: unknown
}

// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html, and the SDK's own names.
const REFUSED = /^(Validation|Serialization|ItemCollectionSizeLimitExceeded)Exception$/
const REFUSED_REASON = /^(ValidationError|ItemCollectionSizeLimitExceeded)$/
const TOO_LARGE_STATUS = 413
const PASSING =
  /^(ProvisionedThroughputExceeded|Thrott(ling|led)|RequestThrottled|RequestLimitExceeded|TooManyRequests|LimitExceeded|TransactionConflict|TransactionInProgress|ResourceInUse|ReplicatedWriteConflict|InternalServer|InternalFailure|ServiceUnavailable|RequestTimeout)(Error|Exception)?$/
const PASSING_REASON = /^(None|TransactionConflict|ProvisionedThroughputExceeded|ThrottlingError)$/
// They are fetched or refreshed beside the requests, and may be there for the next one.
const CREDENTIALS = /^(CredentialsProviderError|TokenProviderError|ExpiredToken(Exception)?|RequestExpired)$/
const NETWORK =
  /^(ECONN\w+|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|E(HOST|NET)(UNREACH|DOWN)|ERR_HTTP2_\w+|TimeoutError|AbortError|NetworkingError)$/
const NEVER_SENT = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|E(HOST|NET)(UNREACH|DOWN))$/

// What is wrong with a table is a ValidationException as well, with nothing but its text to tell.
const INDEX_MISSING = /does not have the specified index/i
const INDEX_UNFINISHED = /backfilling/i

// The document client's encoder throws plain errors.
const UNENCODABLE =
  /^(Special numeric value |(Number|BigInt) \S+ is (greater|lesser) than |Pass (options\.|a non-empty set)|Unsupported type passed: |Only Number Set )/

/** Whether DynamoDB refuses what it was given, whenever it is given. */
export function isRefused(error: AwsError): boolean {
  const refused = REFUSED.test(error.name) || error.$metadata?.httpStatusCode === TOO_LARGE_STATUS
  return refused && !isIndexMissing(error) && !isIndexUnfinished(error)
}

export function isRefusedReason({ Code = 'None' }: CancellationReason): boolean {
  return REFUSED_REASON.test(Code)
}

/** Whether the same request may succeed a moment later. */
export function isPassing(error: AwsError): boolean {
  if (error.CancellationReasons) return mayPass(error.CancellationReasons)
  return (
    PASSING.test(error.name) ||
    CREDENTIALS.test(error.name) ||
    isUnanswered(error) ||
    isIndexUnfinished(error) ||
    (error.$metadata?.httpStatusCode ?? 0) >= 500 ||
    !!error.$retryable
  )
}

/** Whether the same transaction may go through a moment later: every reason has to be a passing one. */
export function mayPass(reasons: readonly CancellationReason[]): boolean {
  return reasons.length > 0 && reasons.every(isPassingReason)
}

export function isPassingReason({ Code = 'None' }: CancellationReason): boolean {
  return PASSING_REASON.test(Code)
}

/** Whether a write that failed like this may have been applied all the same. */
export function mayBeWritten(error: AwsError): boolean {
  const { httpStatusCode = 0, attempts = 1 } = error.$metadata ?? {}
  // The error is that of the SDK's last try. What became of those before, it does not say.
  if (attempts > 1 && isPassing(error)) return true
  if (NEVER_SENT.test(error.code ?? '') || CREDENTIALS.test(error.name)) return false
  // DynamoDB's own words on status 500: a write may have succeeded or failed.
  return isUnanswered(error) || httpStatusCode >= 500 || error.name === 'InternalServerError'
}

/** Whether a right is lacking, of this process or of the role that it plays. */
export function isAccessDenied({ name }: Error): boolean {
  return name === 'AccessDeniedException'
}

/** Whether a try of the SDK's that failed like this may have been carried out. */
export function mayHaveArrived({ code, $metadata }: AwsError): boolean {
  const status = $metadata?.httpStatusCode ?? 0
  return (status < 400 || status >= 500) && !NEVER_SENT.test(code ?? '')
}

/** Whether an index of the outbox is not there. */
export function isIndexMissing({ name, message }: AwsError): boolean {
  return name === 'ValidationException' && INDEX_MISSING.test(message)
}

/** Whether a value has no place in an item, and nothing was sent. */
export function isUnencodable({ name, message, $metadata }: AwsError): boolean {
  if ($metadata) return false
  // An object that holds itself.
  return name === 'RangeError' || (name === 'Error' && UNENCODABLE.test(message))
}

function isIndexUnfinished({ name, message }: AwsError): boolean {
  return name === 'ValidationException' && INDEX_UNFINISHED.test(message)
}

/** No answer came, or one that was cut short or is none of DynamoDB's. */
function isUnanswered({ name, code = '', $metadata }: AwsError): boolean {
  const { httpStatusCode: status, attempts } = $metadata ?? {}
  if (status !== undefined) return status < 300
  return NETWORK.test(name) || NETWORK.test(code) || attempts !== undefined
}
