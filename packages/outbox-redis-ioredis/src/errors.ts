import { OutboxError, StorageError, toError, UnknownOutcomeError } from 'outbox-core'

// Redis 6.2 says where in a script a command was refused before it says why.
const REPLY = '(?:^|@user_script: ?\\d+: -?)'

// Replies after which the same command may succeed later, and what ioredis says of lost connections.
const TRANSIENT_REPLY = new RegExp(
  `${REPLY}(?:OOM|READONLY|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|NOREPLICAS|MISCONF)\\b`,
)
const WRONG_TYPE = new RegExp(`${REPLY}WRONGTYPE\\b`)
const READ_ONLY = new RegExp(`${REPLY}READONLY\\b`)
const LOST =
  /connection is closed|connection lost|max retries per request|ECONNRESET|EPIPE|ETIMEDOUT|command timed out|socket timeout|aborted due to connection close/i
const NEVER_SENT =
  /stream isn't writeable|ECONNREFUSED|ENOTFOUND|EAI_AGAIN|cluster isn't ready|none of startup nodes|failed to refresh slots/i

/** What ioredis threw, as an error of this library. */
export function redisError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = reason(toError(thrown))
  const { message } = cause
  const transient = TRANSIENT_REPLY.test(message) || LOST.test(message) || NEVER_SENT.test(message)
  const advice = WRONG_TYPE.test(message)
    ? '; a key of the outbox holds something else: remove it or choose another prefix'
    : ''
  return new StorageError(`Redis failed (${message})${advice}`, { cause, transient })
}

/** The same for a write: when the connection is gone, nobody knows whether it was applied. */
export function redisWriteError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = reason(toError(thrown))
  if (LOST.test(cause.message)) {
    return new UnknownOutcomeError(
      `the connection to Redis was lost during a write (${cause.message}); it may or may not have happened`,
      { cause },
    )
  }
  const { message, transient } = redisError(cause) as StorageError
  return new StorageError(`${message}; nothing was written`, { cause, transient })
}

/** Whether a script has to be sent again with its text. */
export function isUnknownScript(thrown: unknown): boolean {
  return /^NOSCRIPT/.test(toError(thrown).message)
}

/** Whether the server is a replica. */
export function isReadOnly({ message }: Error): boolean {
  return READ_ONLY.test(message)
}

// EXECABORT itself does not say why. ioredis's errors carry the command's arguments, which are payloads.
function reason(error: Error & { readonly previousErrors?: readonly Error[] }): Error {
  const said: Error & { readonly code?: unknown } =
    (error.message.startsWith('EXECABORT') && error.previousErrors?.[0]) || error
  const clean: Error & { code?: unknown } = new Error(said.message)
  clean.name = said.name
  if (said.code !== undefined) clean.code = said.code
  return clean
}
