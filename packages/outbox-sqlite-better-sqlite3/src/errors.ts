import { NotInitializedError, OutboxError, StorageError, toError } from 'outbox-core'

// Result codes after which the same call may succeed later: https://www.sqlite.org/rescode.html
const TRANSIENT = /^SQLITE_(BUSY|LOCKED|FULL|IOERR|NOMEM|INTERRUPT|PROTOCOL)/

/** Whether another connection holds the lock that was needed. */
export function isBusy(error: unknown): boolean {
  return /^SQLITE_BUSY/.test(codeOf(error))
}

/** What better-sqlite3 threw, as an error of this library. */
export function storageError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = toError(thrown)
  if (/^no such table: /.test(cause.message)) {
    return new NotInitializedError(`SQLite says "${cause.message}"; call outbox.initialize() once at start`, {
      cause,
    })
  }
  const code = codeOf(cause)
  const about = code === '' ? cause.message : `${code}: ${cause.message}`
  return new StorageError(`SQLite failed (${about}); nothing was written`, {
    cause,
    transient: TRANSIENT.test(code),
  })
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : ''
}
