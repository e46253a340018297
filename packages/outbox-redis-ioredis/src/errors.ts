import { OutboxError, StorageError, toError, UnknownOutcomeError } from 'outbox-core'

// Replies after which the same command may succeed later, and what ioredis says of lost connections.
const TRANSIENT_REPLY =
  /^(OOM|READONLY|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|NOREPLICAS|MISCONF|EXECABORT)\b/
const LOST =
  /connection is closed|connection lost|max retries per request|ECONNRESET|EPIPE|ETIMEDOUT|stream isn't writeable|command timed out/i
const NEVER_SENT =
  /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|cluster isn't ready|none of startup nodes|failed to refresh slots/i

/** What ioredis threw, as an error of this library. */
export function redisError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = toError(thrown)
  const { message } = cause
  const transient = TRANSIENT_REPLY.test(message) || LOST.test(message) || NEVER_SENT.test(message)
  const advice = /^WRONGTYPE/.test(message)
    ? '; a key of the outbox holds something else: choose another prefix'
    : ''
  return new StorageError(`Redis failed (${message})${advice}; nothing was written`, { cause, transient })
}

/** The same for a write: when the connection is gone, nobody knows whether it was applied. */
export function redisWriteError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError || !LOST.test(toError(thrown).message)) return redisError(thrown)
  const cause = toError(thrown)
  return new UnknownOutcomeError(
    `the connection to Redis was lost during a write (${cause.message}); it may or may not have happened`,
    { cause },
  )
}

/** Whether a script has to be sent again with its text. */
export function isUnknownScript(thrown: unknown): boolean {
  return /^NOSCRIPT/.test(toError(thrown).message)
}
