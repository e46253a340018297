import { described } from './thrown.ts'

/**
 * What a failure is down to: what is in the **event** (no attempt can help), what this **process** lacks (another one
 * may have it), or the **environment** (it may pass by itself).
 */
export type Blame = 'event' | 'process' | 'environment'

/** The classes of errors that were given a driver's prototype. */
const ownPrototypes = new WeakMap<object, object>()

/**
 * Every error this library throws by itself. `code` is stable and literal, `cause` is kept, and no
 * message ever carries a payload.
 */
export abstract class OutboxError extends Error {
  abstract readonly code: `OUTBOX_${string}`
  /** @default 'environment' */
  readonly blame: Blame = 'environment'

  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
  }

  /** Also of an error that a driver takes for its own, see `alsoOf`. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: each class asks for its own instances
    const isOrdinary = (one: unknown): boolean => super[Symbol.hasInstance](one)
    return isOrdinary(value) || isOrdinary(Object.create(ownPrototypes.get(value as object) ?? null))
  }
}

/**
 * Makes an error an instance of a driver's class as well: drivers that run a transaction again do so for errors of their own,
 * which they tell by the prototype. It stays one of its own class.
 *
 * @param prototype of the driver's error that it stands for
 * @returns the error given
 */
export function alsoOf<E extends OutboxError>(error: E, prototype: object): E {
  ownPrototypes.set(error, Object.getPrototypeOf(error))
  return Object.setPrototypeOf(error, prototype)
}

/** An option has a value that can't work. */
export class ConfigurationError extends OutboxError {
  readonly code = 'OUTBOX_CONFIGURATION'
  readonly option: string

  constructor(option: string, value: unknown, requirement: string) {
    super(`option "${option}" is ${described(value)}: ${requirement}`)
    this.option = option
  }
}

/** An event's type, id, headers or due time can't be stored. */
export class InvalidEventError extends OutboxError {
  readonly code = 'OUTBOX_INVALID_EVENT'
}

/** A payload holds something that JSON would drop or change; `path` says where. */
export class NotSerializableError extends OutboxError {
  readonly code = 'OUTBOX_NOT_SERIALIZABLE'
  readonly path: string

  constructor(path: string, what: string, options?: ErrorOptions) {
    super(`the payload is not serializable as JSON: ${what} at ${path}; convert it before emitting`, options)
    this.path = path
  }
}

/** A payload was refused by the Standard Schema of its event type. */
export class SchemaError extends OutboxError {
  readonly code = 'OUTBOX_SCHEMA'
  override readonly blame = 'event'
  /** Where the schema found something wrong, without the values it found. */
  readonly paths: readonly string[]

  constructor(type: string, paths: readonly string[]) {
    super(`the payload of event "${type}" does not match its schema at ${paths.join(', ')}`)
    this.paths = paths
  }
}

/** An event with the same id and another type or payload is already in the outbox. */
export class DuplicateEventError extends OutboxError {
  readonly code = 'OUTBOX_DUPLICATE_EVENT'
  readonly eventId: string

  constructor(eventId: string) {
    super(
      `event id "${eventId}" is already in the outbox with another type or payload; ` +
        'an id may only be repeated for the same event',
    )
    this.eventId = eventId
  }
}

/** A second handler, activity or middleware was registered where there can only be one. */
export class DuplicateRegistrationError extends OutboxError {
  readonly code = 'OUTBOX_DUPLICATE_REGISTRATION'
}

/** An event's JSON is larger than the limit. */
export class EventTooLargeError extends OutboxError {
  readonly code = 'OUTBOX_EVENT_TOO_LARGE'
  override readonly blame = 'event'
  readonly limit: number
  readonly actual: number

  constructor(type: string, limit: number, actual: number) {
    super(
      `event "${type}" has ${actual} bytes, the limit is ${limit}; ` +
        'use a claim: bus.use(claimCheck(outbox.sagaStore(ttl)))',
    )
    this.limit = limit
    this.actual = actual
  }
}

/** One transaction holds more than its database takes. */
export class TransactionTooLargeError extends OutboxError {
  readonly code = 'OUTBOX_TRANSACTION_TOO_LARGE'
  override readonly blame = 'event'
  readonly limit: number
  readonly actual: number

  constructor(unit: string, limit: number, actual: number) {
    super(`the transaction has ${actual} ${unit}, the limit is ${limit}; split it into smaller transactions`)
    this.limit = limit
    this.actual = actual
  }
}

/** The transaction this call belongs to has already ended. */
export class TransactionClosedError extends OutboxError {
  readonly code = 'OUTBOX_TRANSACTION_CLOSED'

  constructor(advice = 'await everything inside its callback', options?: ErrorOptions) {
    super(`the transaction has already been committed or rolled back; ${advice}`, options)
  }
}

/** The transaction handle belongs to another client, connection or outbox. */
export class ForeignTransactionError extends OutboxError {
  readonly code = 'OUTBOX_FOREIGN_TRANSACTION'
}

/** A transaction handle was given, but no transaction is open on it. */
export class TransactionMissingError extends OutboxError {
  readonly code = 'OUTBOX_TRANSACTION_MISSING'
}

/** A transaction could not start, or did not end, within its time limit. */
export class TransactionTimeoutError extends OutboxError {
  readonly code = 'OUTBOX_TRANSACTION_TIMEOUT'
}

/** The server or its settings can't keep the guarantees. */
export class UnsupportedBackendError extends OutboxError {
  readonly code = 'OUTBOX_UNSUPPORTED_BACKEND'
}

/** Tables, collections or indexes are missing or not what this version needs. */
export class NotInitializedError extends OutboxError {
  readonly code = 'OUTBOX_NOT_INITIALIZED'
}

/** The database refused or failed an operation; nothing of it was written. */
export class StorageError extends OutboxError {
  readonly code = 'OUTBOX_STORAGE'
  /** Whether the same call may succeed later: a lost connection, a lock, a full disk. */
  readonly transient: boolean
  /** `'event'` when the database refuses what it was given, whenever it is given: a constraint, a value it can't hold. */
  override readonly blame: Blame

  constructor(
    message: string,
    options: ErrorOptions & { readonly transient: boolean; readonly refused?: boolean },
  ) {
    super(message, options)
    this.transient = options.transient
    this.blame = options.refused ? 'event' : 'environment'
  }
}

/**
 * A transaction inside another one failed and was caught, in a database that can't take back the inner one alone. The
 * outer one is rolled back too; `cause` is what failed.
 */
export class NestedTransactionError extends OutboxError {
  readonly code = 'OUTBOX_NESTED_TRANSACTION'

  constructor(cause: unknown) {
    super(
      "a transaction inside this one failed, and this database can't take it back alone: nothing was written; " +
        'let its error reach the outer transaction, or do the two one after the other',
      { cause },
    )
  }
}

/** A call that can't be part of the transaction around it, and would wait for its end. */
export class TransactionOpenError extends OutboxError {
  readonly code = 'OUTBOX_TRANSACTION_OPEN'
}

/**
 * The connection was lost after the commit was sent: the write may or may not have happened.
 * Repeating the same write with the same ids is safe.
 */
export class UnknownOutcomeError extends OutboxError {
  readonly code = 'OUTBOX_UNKNOWN_OUTCOME'
}

/** What an error is down to; `undefined` when it is not one of this library. */
export function blameOf(error: unknown): Blame | undefined {
  return error instanceof OutboxError ? error.blame : undefined
}
