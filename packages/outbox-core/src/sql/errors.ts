import {
  NotInitializedError,
  OutboxError,
  StorageError,
  TransactionClosedError,
  TransactionTimeoutError,
  UnknownOutcomeError,
} from '../errors.ts'
import { toError } from '../thrown.ts'

// Codes are SQLSTATEs (https://www.postgresql.org/docs/current/errcodes-appendix.html), Node's, postgres.js's, Prisma's,
// and the kinds that Prisma's driver adapters tell where there is no code.
const MISSING: Readonly<Record<string, string>> = {
  '42P01': 'call outbox.initialize() once at start, or run the migration that postgresMigrations() returns',
  '42703':
    'bring the outbox’s tables up to date with outbox.initialize() or postgresMigrations(); where the table belongs to somebody else, set the option "tables"',
  '3F000': 'create the schema first, or set the option "schema"',
}
const SERIALIZATION = /^(40001|40P01|P2034)$/
// Data, constraints, triggers that raise, the server's and the drivers' own limits: refused now is refused for ever.
const REFUSED =
  /^(22...|23...|44000|54...|P0001|ERR_STRING_TOO_LONG|ERR_BUFFER_TOO_LARGE|ERR_OUT_OF_RANGE|MAX_PARAMETERS_EXCEEDED|UNDEFINED_VALUE)$/
// These tell sizes, no data.
const LIMIT = /^54...$/
const REFUSED_BY_PRISMA =
  /^(P20(0[02-7]|1[129]|2[039]|33)|LengthMismatch|ValueOutOfRange|InvalidInputValue|\w+(Constraint|Restrict)Violation|PrismaClientValidationError)$/
const REFUSED_TEXT = /^invalid (string|array|typed array) length/i
// Connections, resources, operator intervention, locks, timeouts, a standby that was or will be the primary.
const TRANSIENT = /^(08...|53...|57P..|40...|55P03|57014|25P03|25P04|25006|EMFILE|ENFILE)$/
const UNREACHABLE =
  /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|CONNECT_TIMEOUT|P1001|P1002|P2024|P2037|57P03|53300|DatabaseNotReachable|TooManyConnections)$/
const DISCONNECTED =
  /^(08...|57P0.|ECONN\w+|EPIPE|ETIMEDOUT|E(HOST|NET)(UNREACH|DOWN)|ERR_STREAM_\w+|ERR_SOCKET_CLOSED|CONNECTION_(CLOSED|DESTROYED)|P1008|P1017|ConnectionClosed|SocketTimeout)$/
const UNREACHABLE_TEXT =
  /^connect E|when trying to connect|due to connection timeout|not queryable|connection error and is not/i
const DISCONNECTED_TEXT = /connection (terminated|ended|closed)|server closed|query read timeout/i
// A client that its user has closed does not come back.
const CLOSED_TEXT = /after calling end on the pool|client was closed|PGlite is closed/i
const ENDED_TEXT = /transaction (is|already) closed|on a (committed|rolled back) transaction/i

/** What the client threw, as an error of this library. Neither statement nor parameters are ever part of it. */
export function postgresError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const failure = read(thrown)
  const { cause } = failure
  for (const code of failure.codes) {
    const advice = MISSING[code]
    if (advice) return new NotInitializedError(`Postgres says "${cause.message}"; ${advice}`, { cause })
  }
  if (failure.says(ENDED_TEXT)) return new TransactionClosedError()
  if (failure.is(/^P2028$/)) {
    return new TransactionTimeoutError(
      `${cause.message}; pass a longer timeout or maxWait to outbox.transaction, or do less in it`,
      { cause },
    )
  }
  const transient = !failure.says(CLOSED_TEXT) && (failure.is(TRANSIENT, SERIALIZATION) || isLost(failure))
  const code = failure.codes[0] ?? cause.name
  return new StorageError(`Postgres failed (${code}: ${cause.message}); nothing was written`, {
    cause,
    transient,
    refused: failure.isRefusal,
  })
}

/** What was thrown while a statement was put together, by what it was to hold: nothing was sent. */
export function postgresStatementError(thrown: unknown): OutboxError {
  const { name } = toError(thrown)
  return new StorageError(`what was to be written can't be sent to Postgres (${name}); nothing was written`, {
    // Its message may quote the data.
    cause: Object.assign(new Error('the statement could not be put together'), { name }),
    transient: false,
    refused: true,
  })
}

/** The same for a write on its own that got no answer: with the connection gone, nobody knows. */
export function postgresWriteError(thrown: unknown): OutboxError {
  return read(thrown).is(UNREACHABLE) || read(thrown).says(UNREACHABLE_TEXT)
    ? postgresError(thrown)
    : postgresCommitError(thrown)
}

/** The same for a COMMIT. Some clients try to roll back after it failed and throw what came of that. */
export function postgresCommitError(thrown: unknown): OutboxError {
  const failure = read(thrown)
  if (thrown instanceof OutboxError || !isLost(failure)) return postgresError(thrown)
  const { cause } = failure
  return new UnknownOutcomeError(
    `the connection to Postgres was lost during a write (${cause.message}); it may or may not have happened`,
    { cause },
  )
}

/** Whether the whole transaction may be run again: another one was in its way. */
export function isSerializationFailure(thrown: unknown): boolean {
  return read(thrown).is(SERIALIZATION)
}

/** Whether another transaction was in the way, so that the same may be tried again. */
export function isInTheWay(thrown: unknown): boolean {
  return read(thrown).is(SERIALIZATION, /^55P03$/)
}

/** Whether the connection was lost, or the server could not be reached. */
export function isDisconnected(thrown: unknown): boolean {
  return isLost(read(thrown))
}

/** Whether the role may not do it. */
export function isForbidden(thrown: unknown): boolean {
  return read(thrown).is(/^42501$/)
}

/** An error and what caused it, as far as it can be told what went wrong. */
interface Failure {
  readonly codes: readonly string[]
  /** What the driver said, freed of what may hold a payload: parameters, rows, statements. */
  readonly cause: Error
  /** Whether it is what was sent that is at fault, whenever it is sent. */
  readonly isRefusal: boolean
  is(...patterns: readonly RegExp[]): boolean
  says(...patterns: readonly RegExp[]): boolean
}

function isLost(failure: Failure): boolean {
  return failure.is(UNREACHABLE, DISCONNECTED) || failure.says(UNREACHABLE_TEXT, DISCONNECTED_TEXT)
}

function read(thrown: unknown): Failure {
  const chain: Error[] = []
  for (let error = toError(thrown); chain.length < 10; ) {
    chain.push(error)
    if (!(error.cause instanceof Error)) break
    error = error.cause
  }
  const codes = chain.flatMap(codesOf)
  const last = chain.at(-1) as Error
  const names = [...codes, ...chain.map(({ name }) => name)]
  const is = (...patterns: RegExp[]) => names.some((name) => patterns.some((pattern) => pattern.test(name)))
  const isRefusal = is(REFUSED, REFUSED_BY_PRISMA) || REFUSED_TEXT.test(last.message)
  const cause = freed(last, codes, isRefusal)
  return {
    ...{ codes, cause, isRefusal, is },
    says: (...patterns) => patterns.some((pattern) => pattern.test(cause.message)),
  }
}

/** What Prisma's errors carry beside their code. */
interface Described {
  readonly code?: unknown
  readonly meta?: { readonly driverAdapterError?: { readonly cause?: AdapterCause } }
  readonly cause?: unknown
}

interface AdapterCause {
  readonly originalCode?: unknown
  readonly originalMessage?: unknown
  readonly kind?: unknown
}

function codesOf(error: Error): string[] {
  const { code } = error as Described
  const cause = adapterCause(error)
  return [cause?.originalCode, cause?.kind, code].filter((found) => typeof found === 'string')
}

/** At a COMMIT the driver adapter's own error comes through as it is, whose cause is no Error. */
function adapterCause(error: Error): AdapterCause | undefined {
  const { meta, cause } = error as Described
  if (meta?.driverAdapterError) return meta.driverAdapterError.cause
  return typeof cause === 'object' && cause !== null && !(cause instanceof Error) ? cause : undefined
}

function freed(error: Error, codes: readonly string[], isRefusal: boolean): Error {
  const original = adapterCause(error)?.originalMessage
  const said = typeof original === 'string' ? original : lastLine(error.message)
  // Drizzle's own message quotes the parameters, and complaints about data may quote the data.
  const quotes = 'params' in error || (isRefusal && !codes.some((code) => LIMIT.test(code)))
  const clean: Error & { code?: string } = new Error(quotes ? 'the statement was refused' : said)
  clean.name = error.name
  if (codes[0] !== undefined) clean.code = codes[0]
  return clean
}

// Prisma's messages begin with the place in the user's code.
function lastLine(message: string): string {
  return message.trim().split('\n').at(-1)?.trim() ?? ''
}
