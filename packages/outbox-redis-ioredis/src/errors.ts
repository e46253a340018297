import { OutboxError, StorageError, toError, UnknownOutcomeError } from 'outbox-core'
import { TAKEN } from './scripts/script.ts'

// What Redis answers begins with a code. Redis 6.2 says, once or twice, where in a script before it says why.
const REPLY = '^(?:ERR Error running script \\(call to \\w+\\): )?(?:@user_script: ?\\d+: ?-?)*'

// The same command may succeed later: memory, disk, replication, failover, resharding, somebody's long script.
const PASSING = new RegExp(
  `${REPLY}(?:(?:OOM|READONLY|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|NOREPLICAS|MISCONF)\\b|ERR (?:max number of clients|.*Script killed by user))`,
)
const FORBIDDEN = new RegExp(`${REPLY}(?:NOPERM\\b|(?:ERR )?The user executing the script )`)
const WRONG_TYPE = new RegExp(`${REPLY}WRONGTYPE\\b`)
const READ_ONLY = new RegExp(`${REPLY}READONLY\\b`)
// Under the general ERR, Redis tells values that it doesn't take only by its words.
const REFUSED = new RegExp(
  `${REPLY}(?:WRONGTYPE .* ${TAKEN}|ERR (?:${[
    'value is not (?:a valid float|an integer)',
    'value is out of range',
    'min or max is not a float',
    'hash value is not',
    'increment or decrement would overflow',
    'increment would produce NaN',
    'resulting score is not a number',
    'invalid expire time',
    'string exceeds maximum allowed size',
    'Protocol error: invalid (?:multi)?bulk length',
    'Protocol error: too big',
  ].join('|')}))`,
)

// What ioredis and Node say of a connection: what was sent may have been executed, or was never sent.
const LOST_NAMES = ['AbortError', 'MaxRetriesPerRequestError', 'ParserError']
const LOST =
  /connection is closed|connection lost|max retries per request|ECONNRESET|EPIPE|ETIMEDOUT|command timed out|socket timeout|aborted due to connection close/i
const NEVER_SENT =
  /stream isn't writeable|ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN|cluster isn't ready|none of startup nodes|failed to refresh slots|node is disconnected|too many cluster redirections/i
// Of Node, whose buffers and strings ioredis fills before it sends anything.
const UNSENDABLE = [
  'ERR_INVALID_ARG_TYPE',
  'ERR_INVALID_ARG_VALUE',
  'ERR_OUT_OF_RANGE',
  'ERR_STRING_TOO_LONG',
]

const ADVICE: readonly (readonly [RegExp, string])[] = [
  [WRONG_TYPE, '; a key of the outbox holds something else: remove it or choose another prefix'],
  [READ_ONLY, '; connect to the master: in Sentinel the role master, in a cluster a Cluster client'],
  [FORBIDDEN, '; outbox.initialize() says which rights this user lacks'],
]

type Kind = 'passing' | 'lost' | 'refused' | 'other'

/** What ioredis threw, as an error of this library. */
export function redisError(thrown: unknown): OutboxError {
  return thrown instanceof OutboxError ? thrown : storageError(reason(toError(thrown)), '')
}

/** The same for a write: when the connection is gone, nobody knows whether it was applied. */
export function redisWriteError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = reason(toError(thrown))
  if (kindOf(cause) !== 'lost') return storageError(cause, whatIsWritten(cause))
  return new UnknownOutcomeError(
    `the connection to Redis was lost during a write (${cause.message}); it may or may not have happened`,
    { cause },
  )
}

// Scripts judge what they are given before they change anything, so what fails in their middle was not foreseen.
function whatIsWritten(cause: Error): string {
  const kind = kindOf(cause)
  if (kind === 'passing' || kind === 'refused') return '; nothing was written'
  if (!isReply(cause)) return ''
  return /@user_script/.test(cause.message)
    ? '; what a script has written before stays'
    : '; nothing was written'
}

/** Whether a user lacks a right. */
export function isForbidden(thrown: unknown): boolean {
  const { cause } = toError(thrown)
  return cause instanceof Error && isReply(cause) && FORBIDDEN.test(cause.message)
}

/** Whether a script has to be sent again with its text. */
export function isUnknownScript(thrown: unknown): boolean {
  return /^NOSCRIPT/.test(toError(thrown).message)
}

/** Whether the server is a replica. */
export function isReadOnly({ message }: Error): boolean {
  return READ_ONLY.test(message)
}

function storageError(cause: Error, written: string): StorageError {
  const { message } = cause
  const kind = kindOf(cause)
  const advice = ADVICE.find(([pattern]) => pattern.test(message))?.[1] ?? ''
  return new StorageError(`Redis failed (${message})${advice}${written}`, {
    cause,
    transient: kind === 'passing' || kind === 'lost',
    refused: kind === 'refused',
  })
}

function kindOf(error: Error & { readonly code?: unknown }): Kind {
  const { name, message, code } = error
  // By how they begin, also when somebody between has made errors of his own of them.
  if (PASSING.test(message)) return 'passing'
  if (REFUSED.test(message)) return 'refused'
  // Replies name keys, which may say anything.
  if (isReply(error)) return 'other'
  const said = `${message} ${code}`
  if (LOST_NAMES.includes(name) || LOST.test(said)) return 'lost'
  if (NEVER_SENT.test(said)) return 'passing'
  // V8 has no code for a command that is longer than a string can be.
  const isUnsendable = UNSENDABLE.includes(String(code)) || message === 'Invalid string length'
  return isUnsendable ? 'refused' : 'other'
}

/** Whether the server has said so: of `redis-errors`, which every client may have its own of. */
function isReply({ name }: Error): boolean {
  return name === 'ReplyError'
}

// EXEC does not say why a command before it was refused. ioredis's errors carry the command's arguments, which are payloads.
function reason(error: Error & { readonly previousErrors?: readonly Error[] }): Error {
  const said: Error & { readonly code?: unknown } = error.previousErrors?.find(isReply) ?? error
  const clean: Error & { code?: unknown } = new Error(said.message)
  clean.name = said.name
  if (said.code !== undefined) clean.code = said.code
  return clean
}
