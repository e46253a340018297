import { NotSerializableError } from '../errors.ts'

/**
 * JSON text of a payload that reads back as what was given. Refuses what JSON would drop or change without a
 * word: BigInt, functions, symbols, NaN and infinities, invalid dates, undefined in an array, Map, Set, binary
 * data, cycles, and an own `__proto__` key, which turns into an attack where objects are merged later.
 *
 * A payload that is `undefined` as a whole becomes `null`, and undefined properties are left out, as JSON does.
 *
 * @throws NotSerializableError with the path of the first offending value.
 */
export function serialize(payload: unknown): string {
  if (payload === undefined) return 'null'
  const ancestors: object[] = []
  inspect(payload, ancestors, [])
  try {
    return JSON.stringify(payload)
  } catch (error) {
    throw new NotSerializableError('$', 'it throws while being serialized', { cause: error })
  }
}

type Path = (string | number)[]

function inspect(value: unknown, ancestors: object[], path: Path): void {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return
    case 'number':
      if (!Number.isFinite(value)) refuse(path, String(value))
      return
    case 'object':
      if (value !== null) inspectObject(value, ancestors, path)
      return
    default:
      refuse(
        path,
        typeof value === 'bigint'
          ? 'a BigInt'
          : typeof value === 'undefined'
            ? 'undefined'
            : `a ${typeof value}`,
      )
  }
}

// A chain of objects this deep overflows the stack in JSON.stringify and in most readers.
const DEEPEST = 1000

function inspectObject(value: object, ancestors: object[], path: Path): void {
  if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) refuse(path, 'an invalid Date')
    return
  }
  if (
    value instanceof Map ||
    value instanceof Set ||
    ArrayBuffer.isView(value) ||
    value instanceof ArrayBuffer
  ) {
    refuse(path, `a ${value.constructor.name}`)
  }
  if (ancestors.includes(value)) refuse(path, 'a cycle')
  if (ancestors.length >= DEEPEST) refuse(path.slice(0, 10), `nesting deeper than ${DEEPEST} levels`)
  ancestors.push(value)
  if (Array.isArray(value)) inspectArray(value, ancestors, path)
  else if (typeof (value as { toJSON?: unknown }).toJSON === 'function')
    inspectReplacement(value, ancestors, path)
  else inspectProperties(value, ancestors, path)
  ancestors.pop()
}

function inspectArray(array: readonly unknown[], ancestors: object[], path: Path): void {
  for (let index = 0; index < array.length; index++) {
    path.push(index)
    inspect(array[index], ancestors, path)
    path.pop()
  }
}

function inspectReplacement(value: object, ancestors: object[], path: Path): void {
  let replacement: unknown
  try {
    replacement = (value as { toJSON(key: string): unknown }).toJSON(String(path.at(-1) ?? ''))
  } catch (error) {
    throw new NotSerializableError(pathText(path), 'a toJSON method that throws', { cause: error })
  }
  if (replacement !== undefined && replacement !== value) inspect(replacement, ancestors, path)
}

function inspectProperties(value: object, ancestors: object[], path: Path): void {
  for (const key of Object.keys(value)) {
    if (key === '__proto__') refuse(path, 'an own "__proto__" key')
    const property = (value as Record<string, unknown>)[key]
    if (property === undefined) continue
    path.push(key)
    inspect(property, ancestors, path)
    path.pop()
  }
}

function refuse(path: Path, what: string): never {
  throw new NotSerializableError(pathText(path), what)
}

function pathText(path: Path): string {
  const steps = path.map((step) =>
    typeof step === 'number'
      ? `[${step}]`
      : /^[A-Za-z_$][\w$]*$/.test(step)
        ? `.${step}`
        : `[${JSON.stringify(step)}]`,
  )
  return `$${steps.join('')}`
}
