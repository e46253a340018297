import { NotInitializedError, OutboxError, StorageError, toError } from 'outbox-core'

// Result codes after which the same call may succeed later: https://www.sqlite.org/rescode.html
const TRANSIENT = /^SQLITE_(BUSY|LOCKED|FULL|IOERR|NOMEM|INTERRUPT|PROTOCOL)/

// What is in the statement can't be stored, whenever it is tried. Foreign keys are none of the outbox's: those of a
// user's rows may hold at the next attempt, and are judged at the commit.
const REFUSED = /^SQLITE_(CONSTRAINT(?!_FOREIGNKEY)|TOOBIG|MISMATCH|RANGE)/

// The same, from better-sqlite3 before SQLite is asked (util/binder.cpp) and from V8; these have no code.
const UNBINDABLE =
  /^(SQLite3 can only bind |The bound string, buffer, or bigint is too big|Too (few|many) parameter values |Missing named parameter|Named parameters can only |Invalid string length$)/

// better-sqlite3's own refusal to write while one of the user's iterators is open; it has no code.
const ITERATING = /^This database connection is busy executing a query$/

const ADVICE: readonly (readonly [RegExp, string])[] = [
  [/^SQLITE_BUSY_SNAPSHOT/, 'roll back, and begin with BEGIN IMMEDIATE'],
  [/^SQLITE_(BUSY|LOCKED)/, 'keep transactions of other connections short, or raise lockTimeout'],
  [/^SQLITE_FULL/, 'make room on the disk, or raise max_page_count'],
  [/^SQLITE_READONLY_DBMOVED/, 'the file was moved or deleted while it was open; open the database again'],
  [
    /^SQLITE_READONLY/,
    'the process must be able to write to the file and its directory, and query_only must be off',
  ],
  [/^SQLITE_(CORRUPT|NOTADB)/, 'restore the file from a backup'],
  [/connection is not open$/, 'keep the connection open until bus.stop() has resolved'],
  [ITERATING, 'finish the iterate() that is open on the connection, or use all()'],
]

/** Whether something else on the connection or the file is in the way, and will be gone. */
export function isBusy(error: unknown): boolean {
  return /^SQLITE_BUSY/.test(codeOf(error)) || (error instanceof Error && ITERATING.test(error.message))
}

/** What better-sqlite3 threw, as an error of this library. */
export function storageError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const cause = toError(thrown)
  if (/^no such (table|index): /.test(cause.message)) {
    return new NotInitializedError(`SQLite says "${cause.message}"; call outbox.initialize() once at start`, {
      cause,
    })
  }
  const code = codeOf(cause)
  const about = code === '' ? cause.message : `${code}: ${cause.message}`
  const advice = ADVICE.find(([pattern]) => pattern.test(code) || pattern.test(cause.message))
  return new StorageError(`SQLite failed (${about}); nothing was written${advice ? `: ${advice[1]}` : ''}`, {
    cause,
    transient: TRANSIENT.test(code) || isBusy(cause),
    refused: REFUSED.test(code) || isUnbindable(cause),
  })
}

function isUnbindable(error: Error): boolean {
  return (error instanceof TypeError || error instanceof RangeError) && UNBINDABLE.test(error.message)
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : ''
}
