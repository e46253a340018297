import { types } from 'node:util'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { serialize } from '../src/emitting/serialize.ts'
import { NotSerializableError } from '../src/errors.ts'

class Point {
  x = 1
  y = -0
}

class Sealed {
  #secret = 1
  reveal(): number {
    return this.#secret
  }
}

class Money {
  #cents = 1234
  toJSON(): string {
    return (this.#cents / 100).toFixed(2)
  }
}

function refusal(payload: unknown): NotSerializableError {
  try {
    serialize(payload)
  } catch (error) {
    expect(error).toBeInstanceOf(NotSerializableError)
    return error as NotSerializableError
  }
  throw new Error('it was accepted')
}

/** Whether JSON writes all of it, told by what JSON itself comes across. */
function lossless(payload: unknown): boolean {
  let lost = false
  const lose = (): undefined => {
    lost = true
    return undefined
  }
  const text = JSON.stringify({ payload }, function (this: unknown, key, value: unknown) {
    const given: unknown = Reflect.get(this as object, key)
    if (value === undefined && (given !== undefined || Array.isArray(this))) return lose()
    if (typeof value === 'number' && !Number.isFinite(value)) return lose()
    if (['bigint', 'symbol', 'function'].includes(typeof value)) return lose()
    if (given instanceof Date && Number.isNaN(given.getTime())) return lose()
    if (typeof value !== 'object' || value === null) return value
    if ([given, value].some(isContainer)) return lose()
    if (value !== given && 'toJSON' in value) return lose()
    const boxed = types.isBoxedPrimitive(value) ? value.valueOf() : value
    if (typeof boxed === 'number' && !Number.isFinite(boxed)) return lose()
    if (['bigint', 'symbol'].includes(typeof boxed)) return lose()
    if (typeof boxed !== 'object') return value
    if (Object.hasOwn(value, '__proto__')) return lose()
    const plain = Array.isArray(value) || [Object.prototype, null].includes(Object.getPrototypeOf(value))
    if (!plain && (Object.keys(value).length === 0 || value instanceof Error)) return lose()
    return value
  })
  return !lost && text !== undefined
}

function isContainer(value: unknown): boolean {
  return ArrayBuffer.isView(value) || value instanceof Map || value instanceof Set
}

const anything = fc.anything({
  withBigInt: true,
  withBoxedValues: true,
  withDate: true,
  withMap: true,
  withSet: true,
  withNullPrototype: true,
  withObjectString: true,
  withSparseArray: true,
  withTypedArray: true,
  maxDepth: 3,
})

const handmade = fc.constantFrom<() => unknown>(
  () => new Point(),
  () => new Sealed(),
  () => new Money(),
  () => new Error('lost'),
  () => Promise.resolve(),
  () => /x/,
  () => new URL('http://a/'),
  () => new URLSearchParams('a=b'),
  () => [1].values(),
  () => new Number(Number.POSITIVE_INFINITY),
  () => Object(1n),
  () => Object(Symbol('s')),
  () => () => 1,
  () => Symbol('s'),
  () => new (class extends Date {})(0),
)

const { payloads } = fc.letrec<{ payloads: unknown }>((tie) => ({
  payloads: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.jsonValue({ maxDepth: 2 }),
    fc.constant(undefined),
    handmade.map((make) => make()),
    anything,
    fc.array(tie('payloads'), { maxLength: 3 }),
    fc.dictionary(fc.string({ maxLength: 3 }), tie('payloads'), { maxKeys: 3, noNullPrototype: false }),
    tie('payloads').map((value) => ({ toJSON: () => value })),
    tie('payloads').map((value) => Object.assign(new Point(), { value })),
  ),
}))

describe('any payload', () => {
  test('is refused by name, or written as JSON writes it and with nothing lost', () => {
    const seen = { accepted: 0, refused: 0 }
    fc.assert(
      fc.property(payloads, (payload) => {
        if (!lossless(payload)) {
          expect(refusal(payload).path).toMatch(/^\$/)
          seen.refused += 1
          return
        }
        const text = serialize(payload)
        expect(text).toBe(payload === undefined ? 'null' : JSON.stringify(payload))
        expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(payload) ?? 'null'))
        seen.accepted += 1
      }),
      { numRuns: 20_000 },
    )
    expect(Math.min(seen.accepted, seen.refused)).toBeGreaterThan(2_000)
  })

  test('that JSON can read is the same afterwards', () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (payload) => {
        const json = JSON.stringify(payload)
        // The one key that is refused.
        fc.pre(!json.includes('"__proto__"'))
        expect(serialize(payload)).toBe(json)
      }),
    )
  })
})
