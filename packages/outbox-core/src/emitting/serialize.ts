import { types } from 'node:util'
import { NotSerializableError } from '../errors.ts'

/**
 * JSON text of a payload that reads back as what was given. Refuses what JSON would drop or change without a
 * word: BigInt, functions, symbols, NaN and infinities, invalid dates, undefined in an array, Map, Set, binary
 * data, promises, errors and other objects that JSON finds nothing in, cycles, and an own `__proto__` key, which
 * turns into an attack where objects are merged later.
 *
 * A payload that is `undefined` as a whole becomes `null`, and undefined properties are left out, as JSON does.
 * An instance of a class becomes what its `toJSON` returns, else its own enumerable properties.
 *
 * @throws NotSerializableError with the path of the first offending value.
 */
export function serialize(payload: unknown): string {
  if (payload === undefined) return 'null'
  try {
    inspect(payload, '', [])
    // A toJSON need not return the same when it is called again.
    return JSON.stringify(payload) ?? refuse(RETURNS_UNDEFINED)
  } catch (thrown) {
    const { what, path, options } = Refusal.of(thrown)
    throw new NotSerializableError(pathText(path), what, options)
  }
}

type Step = string | number

const RETURNS_UNDEFINED = 'a toJSON method that returns undefined'

/** Gathers its path on the way up, so that what is serializable does not pay for one. */
class Refusal {
  readonly what: string
  readonly options: ErrorOptions | undefined
  readonly #steps: Step[] = []

  constructor(what: string, options?: ErrorOptions) {
    this.what = what
    this.options = options
  }

  static of(thrown: unknown): Refusal {
    if (thrown instanceof Refusal) return thrown
    return new Refusal('something that throws when it is read', { cause: thrown })
  }

  get path(): readonly Step[] {
    return this.#steps.toReversed()
  }

  within(step: Step): this {
    this.#steps.push(step)
    return this
  }
}

function refuse(what: string): never {
  throw new Refusal(what)
}

function inspect(value: unknown, key: Step, ancestors: object[]): void {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return
    case 'number':
      if (!Number.isFinite(value)) refuse(String(value))
      return
    case 'object':
      if (value !== null) inspectObject(value, key, ancestors)
      return
    default:
      refuse(unwritable(value, key))
  }
}

function unwritable(value: unknown, key: Step): string {
  if (value === undefined) return 'undefined'
  if (typeof value === 'bigint') return 'a BigInt'
  if (typeof value === 'function' && key === 'then') return 'a function, as promises have: a forgotten await?'
  return `a ${typeof value}`
}

// A chain of objects this deep overflows the stack in JSON.stringify and in most readers.
const DEEPEST = 1000

function inspectObject(value: object, key: Step, ancestors: object[]): void {
  const prototype: unknown = Object.getPrototypeOf(value)
  const plain = prototype === Object.prototype || prototype === null
  if (!(plain || prototype === Array.prototype) || ArrayBuffer.isView(value)) {
    if (value instanceof Date && isUsualDate(value)) return
    refuseContainers(value)
  }
  if (ancestors.includes(value)) refuse('a cycle')
  if (ancestors.length >= DEEPEST) refuse(`nesting deeper than ${DEEPEST} levels`)
  ancestors.push(value)
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') inspectReplacement(value, key, ancestors)
  else inspectContents(value, plain, ancestors)
  ancestors.pop()
}

const { getTime, toISOString, toJSON } = Date.prototype

function isUsualDate(date: Date): boolean {
  if (Number.isNaN(getTime.call(date))) refuse('an invalid Date')
  return date.toJSON === toJSON && date.toISOString === toISOString
}

function refuseContainers(value: object): void {
  if (
    value instanceof Map ||
    value instanceof Set ||
    ArrayBuffer.isView(value) ||
    value instanceof ArrayBuffer
  ) {
    refuse(named(value))
  }
}

// JSON calls toJSON once: not again on what it returned.
function inspectReplacement(value: object, key: Step, ancestors: object[]): void {
  let replacement: unknown
  try {
    replacement = (value as { toJSON(key: string): unknown }).toJSON(String(key))
  } catch (cause) {
    throw new Refusal('a toJSON method that throws', { cause })
  }
  if (replacement === undefined) refuse(RETURNS_UNDEFINED)
  if (replacement === null && types.isDate(value)) refuse('an invalid Date')
  if (replacement === value) inspectContents(value, false, ancestors)
  else if (typeof (replacement as { toJSON?: unknown } | null)?.toJSON === 'function') {
    refuse('a toJSON method that returns an object with a toJSON of its own, which JSON does not call')
  } else inspect(replacement, key, ancestors)
}

function inspectContents(value: object, plain: boolean, ancestors: object[]): void {
  if (Array.isArray(value)) inspectItems(value, ancestors)
  else if (plain) inspectProperties(value, Object.keys(value), ancestors)
  else inspectInstance(value, ancestors)
}

function inspectInstance(value: object, ancestors: object[]): void {
  const keys = Object.keys(value)
  if (types.isBoxedPrimitive(value)) refuseBoxed(value)
  else refuseEmptyLooking(value, keys)
  inspectProperties(value, keys, ancestors)
}

function refuseBoxed(value: object): void {
  if (types.isBigIntObject(value)) refuse('a BigInt')
  if (types.isSymbolObject(value)) refuse('a symbol')
  if (types.isNumberObject(value) && !Number.isFinite(Number(value))) refuse(String(Number(value)))
}

function refuseEmptyLooking(value: object, keys: readonly string[]): void {
  if (typeof (value as { then?: unknown }).then === 'function') refuse('a Promise: a forgotten await?')
  // JSON writes an error's code at most, never its message.
  if (value instanceof Error || types.isNativeError(value)) refuse(named(value))
  if (keys.length === 0 && !isPlain(value)) refuse(`${named(value)}, which JSON writes as {}`)
}

/** Whether it is an object like `{}`, of another realm or of a library that saves itself the prototype. */
function isPlain(value: object): boolean {
  const prototype: object | null = Object.getPrototypeOf(value)
  if (prototype === null || prototype === Object.prototype) return true
  if (Object.getPrototypeOf(prototype) !== null) return false
  return Object.hasOwn(prototype, 'isPrototypeOf') || Reflect.ownKeys(prototype).length === 0
}

function inspectItems(array: readonly unknown[], ancestors: object[]): void {
  let index = 0
  try {
    for (; index < array.length; index++) inspect(array[index], index, ancestors)
  } catch (thrown) {
    throw Refusal.of(thrown).within(index)
  }
}

function inspectProperties(value: object, keys: readonly string[], ancestors: object[]): void {
  let key = ''
  try {
    for (key of keys) {
      if (key === '__proto__') refuse('an own "__proto__" key')
      const property = (value as Record<string, unknown>)[key]
      if (typeof property === 'string' || property === undefined) continue
      // Only where it has been called and returned its own object.
      if (key === 'toJSON' && typeof property === 'function') continue
      inspect(property, key, ancestors)
    }
  } catch (thrown) {
    throw Refusal.of(thrown).within(key)
  }
}

function named(value: object): string {
  const known: unknown = Object.getPrototypeOf(value)?.constructor?.name
  const name =
    typeof known === 'string' && known !== '' ? known : Object.prototype.toString.call(value).slice(8, -1)
  return `${/^[AEIO]/.test(name) ? 'an' : 'a'} ${name}`
}

// Longer ones say as much with their beginning.
const LONGEST_PATH = 100

function pathText(path: readonly Step[]): string {
  const steps = path
    .slice(0, path.length > LONGEST_PATH ? 10 : LONGEST_PATH)
    .map((step) =>
      typeof step === 'number'
        ? `[${step}]`
        : /^[A-Za-z_$][\w$]*$/.test(step)
          ? `.${step}`
          : `[${JSON.stringify(step)}]`,
    )
  return `$${steps.join('')}`
}
