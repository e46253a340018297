import { types } from 'node:util'

/** What a log line or a stored failure says of something thrown. */
export interface ErrorFields {
  readonly name: string
  readonly code?: string
  readonly message: string
}

/** An error as pino's standard serializer shapes it, without anything that its class or its driver added. */
export interface LoggedError {
  readonly type: string
  readonly message: string
  readonly stack?: string
  readonly code?: string
  readonly cause?: LoggedError
}

const LONGEST_NAME = 100
const LONGEST_MESSAGE = 1_000
const LONGEST_STACK = 4_000
const DEEPEST_CAUSE = 5

/** Anything thrown, as an Error: a thrown string or object is wrapped, and kept as `cause`. */
export function toError(thrown: unknown): Error {
  if (isError(thrown)) return thrown
  return new Error(`a non-Error was thrown: ${described(thrown)}`, { cause: thrown })
}

/**
 * Name, code and message of anything thrown, never a stack or a payload: cut, and freed of what some databases refuse
 * in text, since they end up there. Never throws.
 */
export function errorFields(thrown: unknown): ErrorFields {
  const error = toError(thrown)
  const name = text(error, 'name', LONGEST_NAME) || 'Error'
  const code = codeOf(error)
  const message = messageOf(error)
  return code === undefined ? { name, message } : { name, code, message }
}

/** Anything thrown, for a log line, under the key and in the shape that pino has for errors. Never throws. */
export function errFields(thrown: unknown): { readonly err: LoggedError } {
  return { err: logged(toError(thrown), []) }
}

function logged(error: Error, outer: readonly Error[]): LoggedError {
  const type = className(error) || text(error, 'name', LONGEST_NAME) || 'Error'
  const stack = stackOf(error)
  const code = codeOf(error)
  const chain = [...outer, error]
  const cause = read(error, 'cause')
  const nested = isError(cause) && chain.length <= DEEPEST_CAUSE && !chain.includes(cause)
  const fields: LoggedError = {
    type,
    message: messageOf(error),
    ...(stack !== undefined && { stack }),
    ...(code !== undefined && { code }),
    ...(nested && { cause: logged(cause, chain) }),
  }
  // Where pino takes them for an error, it asks for a constructor's name first, and would call all of them Object.
  return Object.defineProperties(fields, { constructor: { value: undefined }, name: { value: type } })
}

// `instanceof` would not know errors of Node's own modules under Jest. A chain with a proxy in it may throw or never end.
const LONGEST_PROTOTYPE_CHAIN = 50

function isError(value: unknown): value is Error {
  if (types.isNativeError(value)) return true
  if (typeof value !== 'object' || value === null) return false
  try {
    let prototype: unknown = value
    for (let steps = 0; steps < LONGEST_PROTOTYPE_CHAIN && prototype !== null; steps++) {
      prototype = Object.getPrototypeOf(prototype)
      if (prototype === Error.prototype) return true
    }
  } catch {
    // A proxy that refuses to tell is no error.
  }
  return false
}

function messageOf(error: Error): string {
  const message = read(error, 'message')
  if (typeof message === 'string') return clean(message, LONGEST_MESSAGE)
  return message === undefined || message === null ? '' : described(message)
}

// Drivers have them as text and as numbers.
function codeOf(error: Error): string | undefined {
  const code = read(error, 'code')
  if (typeof code === 'number' || typeof code === 'bigint') return described(code)
  return typeof code === 'string' ? clean(code, LONGEST_NAME) || undefined : undefined
}

// The message comes first, however long it is: it must not push out what follows.
function stackOf(error: Error): string | undefined {
  const stack = read(error, 'stack')
  if (typeof stack !== 'string') return undefined
  const frames = stack.indexOf('\n    at ')
  const head = clean(frames < 0 ? stack : stack.slice(0, frames), LONGEST_MESSAGE)
  return frames < 0 ? head : clean(`${head}${stack.slice(frames, frames + LONGEST_STACK)}`, LONGEST_STACK)
}

function className(value: object): string {
  const itsClass = read(value, 'constructor')
  return typeof itsClass === 'function' ? text(itsClass, 'name', LONGEST_NAME) : ''
}

/** A value in a message: short, and of an object no more than its class. Never throws. */
export function described(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
    case 'bigint':
      // Writing out a very long one takes minutes.
      return BigInt.asIntN(64, value) === value ? String(value) : 'a BigInt'
    case 'symbol':
      return clean(String(value), LONGEST_NAME)
    case 'function':
      return 'a function'
    case 'object':
      return value === null ? 'null' : `of type ${className(value) || 'object'}`
    default:
      return String(value)
  }
}

function text(of: object, key: string, most: number): string {
  const value = read(of, key)
  return typeof value === 'string' ? clean(value, most) : ''
}

function read(of: object, key: string): unknown {
  try {
    return (of as Record<string, unknown>)[key]
  } catch {
    return undefined
  }
}

function clean(value: string, most: number): string {
  return value.slice(0, most).toWellFormed().replaceAll('\0', '')
}
