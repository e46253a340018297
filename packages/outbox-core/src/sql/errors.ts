import {
  NotInitializedError,
  OutboxError,
  StorageError,
  TransactionTimeoutError,
  toError,
  UnknownOutcomeError,
} from '../errors.ts'

// https://www.postgresql.org/docs/current/errcodes-appendix.html: connection, resources, operator intervention,
// serialization failures and deadlocks, locks, timeouts.
const TRANSIENT_STATE = /^(08|53|57P|40|55P03|57014|25P03)/
const SERIALIZATION = /^(40001|40P01|P2034)$/
const CONNECTION_STATE = /^(08|57P0)/
const CONNECTION_CODE =
  /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|CONNECTION_(CLOSED|DESTROYED|ENDED)|CONNECT_TIMEOUT|P1001|P1002|P1008|P1017|P2024)/
const CONNECTION_TEXT =
  /connection (terminated|ended|closed)|client has encountered a connection error|not queryable|server closed|timeout exceeded when trying to connect/i
const CLOSED_BY_USER =
  /after calling end on the pool|client was closed|engine is not yet connected|PGlite is closed/i

/** What the client threw, as an error of this library. The statement's parameters are never part of it. */
export function postgresError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError) return thrown
  const chain = causes(thrown)
  const codes = chain.flatMap(codesOf)
  const cause = driverError(chain)
  if (codes.includes('42P01') || codes.includes('3F000')) {
    return new NotInitializedError(
      `Postgres says "${cause.message}"; call outbox.initialize() once at start, or apply postgresMigrations()`,
      { cause },
    )
  }
  if (codes.includes('P2028')) {
    return new TransactionTimeoutError(
      "Prisma's interactive transaction timed out; pass a longer timeout or maxWait to outbox.transaction",
      { cause },
    )
  }
  const [code = 'no code'] = codes
  return new StorageError(`Postgres failed (${code}: ${cause.message}); nothing was written`, {
    cause,
    transient: isTransient(chain, codes),
  })
}

/** The same for what was written without an answer: when the connection is gone, nobody knows. */
export function postgresWriteError(thrown: unknown): OutboxError {
  if (thrown instanceof OutboxError || !lostConnection(thrown)) return postgresError(thrown)
  const cause = driverError(causes(thrown))
  return new UnknownOutcomeError(
    `the connection to Postgres was lost during a write (${cause.message}); it may or may not have happened`,
    { cause },
  )
}

/** Whether the whole transaction may be run again: another one was in its way. */
export function isSerializationFailure(thrown: unknown): boolean {
  return causes(thrown)
    .flatMap(codesOf)
    .some((code) => SERIALIZATION.test(code))
}

function lostConnection(thrown: unknown): boolean {
  const chain = causes(thrown)
  const codes = chain.flatMap(codesOf)
  // A refused connection has written nothing.
  if (codes.some((code) => /^(ECONNREFUSED|ENOTFOUND|P1001|P2024|57P03)$/.test(code))) return false
  return (
    codes.some((code) => CONNECTION_STATE.test(code) || CONNECTION_CODE.test(code)) ||
    chain.some(({ message }) => CONNECTION_TEXT.test(message))
  )
}

function isTransient(chain: readonly Error[], codes: readonly string[]): boolean {
  if (chain.some(({ message }) => CLOSED_BY_USER.test(message))) return false
  if (
    codes.some((code) => TRANSIENT_STATE.test(code) || CONNECTION_CODE.test(code) || SERIALIZATION.test(code))
  ) {
    return true
  }
  return chain.some(({ message }) => CONNECTION_TEXT.test(message))
}

/** An error and what caused it, outermost first. */
function causes(thrown: unknown): Error[] {
  const chain: Error[] = []
  for (let error = toError(thrown); chain.length < 10; ) {
    chain.push(error)
    if (!(error.cause instanceof Error)) break
    error = error.cause
  }
  return chain
}

interface Coded {
  readonly code?: unknown
  readonly meta?: {
    readonly code?: unknown
    readonly driverAdapterError?: { readonly cause?: { readonly originalCode?: unknown } }
  }
}

function codesOf(error: Error): string[] {
  const { code, meta } = error as Coded
  const found = [meta?.driverAdapterError?.cause?.originalCode, meta?.code, code]
  return found.filter((candidate): candidate is string => typeof candidate === 'string')
}

// Drizzle's own error quotes statement and parameters, which are payloads: only what the driver said is kept.
function driverError(chain: readonly Error[]): Error {
  const innermost = chain.at(-1) as Error
  if (innermost.name !== 'DrizzleQueryError' && !('params' in innermost)) return innermost
  return new Error('the query failed')
}
