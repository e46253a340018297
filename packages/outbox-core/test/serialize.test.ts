import { runInNewContext } from 'node:vm'
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

const returning = (value: unknown): object => ({ toJSON: () => value })
const throwing = (): never => {
  throw new RangeError('from within')
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

describe('what JSON would write as {} or null, and is neither', () => {
  test.each<[string, unknown]>([
    ['an Error', new Error('lost')],
    ['a TypeError', Object.assign(new TypeError('lost'), { code: 'E_LOST' })],
    ['a RegExp', /x/],
    ['a WeakMap', new WeakMap()],
    ['a WeakSet', new WeakSet()],
    ['a WeakRef', new WeakRef({})],
    ['a Map', new Map([[1, 2]])],
    ['a Set', new Set([1])],
    ['a Headers', new Headers({ a: 'b' })],
    ['a URLSearchParams', new URLSearchParams('a=b')],
    ['a FormData', new FormData()],
    ['a Blob', new Blob(['x'])],
    ['an AbortController', new AbortController()],
    ['an Iterator', [1].values()],
    ['a Generator', (function* () {})()],
    ['a SharedArrayBuffer', new SharedArrayBuffer(8)],
    ['an ArrayBuffer', new ArrayBuffer(8)],
    ['a Buffer', Buffer.from('x')],
    ['a DataView', new DataView(new ArrayBuffer(8))],
    ['a Sealed', new Sealed()],
    ['an Object', Object.create({ inherited: 1 })],
    ['an Array', Object.create(Array.prototype)],
    ['a Promise: a forgotten await?', Promise.resolve({ id: 1 })],
    ['a Promise: a forgotten await?', Object.assign(Promise.resolve(1), { pid: 42 })],
    [
      'a Promise: a forgotten await?',
      new (class Query extends Point {
        // biome-ignore lint/suspicious/noThenProperty: what query builders are
        then(): void {}
      })(),
    ],
    ['NaN', new Number(Number.NaN)],
    ['-Infinity', new Number(Number.NEGATIVE_INFINITY)],
    ['a BigInt', Object(1n)],
    ['a symbol', Object(Symbol('s'))],
    ['an invalid Date', new Date(Number.NaN)],
    ['an invalid Date', new (class extends Date {})(Number.NaN)],
    ['a toJSON method that returns undefined', returning(undefined)],
    ['a toJSON method that returns an object with a toJSON of its own', returning(new Date())],
    ['a toJSON method that returns an object with a toJSON of its own', returning(new Money())],
    ['a toJSON method that returns undefined', Object.assign(new Date(0), returning(undefined))],
    ['a function', Object.assign(new Date(0), { toISOString: () => throwing })],
    ['a toJSON method that throws', { toJSON: throwing }],
    ['a function', returning(() => 1)],
    ['a Sealed', returning(new Sealed())],
    ['a Map', returning(new Map())],
    ['NaN', returning(Number.NaN)],
    ['NaN', returning(new Number(Number.NaN))],
    ['a toJSON method that returns undefined', Object.assign([1], returning(undefined))],
  ])('%s', (what, value) => {
    expect(refusal(value)).toMatchObject({ path: '$', message: expect.stringContaining(`: ${what}`) })
    expect(refusal({ list: [0, { value }] })).toMatchObject({ path: '$.list[1].value' })
  })

  test.each(['new Map()', 'Promise.resolve(1)', 'new Error("x")', 'new Date(NaN)', '/x/', 'new Number(NaN)'])(
    '%s of another realm',
    (code) => {
      expect(refusal([runInNewContext(code)]).path).toBe('$[0]')
    },
  )

  test('names no value of a payload', () => {
    const hidden = Object.defineProperty(new Sealed(), 'constructor', { value: { name: 'secret' } })
    expect(refusal({ hidden }).message).not.toContain('secret')
  })
})

describe('what throws when it is read', () => {
  const revoked = (): object => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  }
  const own = refusal({ big: 1n })

  test.each<[string, unknown, string, unknown]>([
    [
      'a getter',
      {
        a: [
          {
            get b() {
              return throwing()
            },
          },
        ],
      },
      '$.a[0].b',
      { message: 'from within' },
    ],
    [
      'a getter of toJSON',
      {
        a: {
          get toJSON() {
            return throwing()
          },
        },
      },
      '$.a',
      { message: 'from within' },
    ],
    ['a toJSON', { a: { toJSON: throwing } }, '$.a', { message: 'from within' }],
    [
      'a boxed number',
      { a: Object.assign(new Number(1), { valueOf: throwing }) },
      '$.a',
      { message: 'from within' },
    ],
    ['a proxy', new Proxy({}, { ownKeys: throwing }), '$', { message: 'from within' }],
    ['a revoked proxy', { a: [revoked()] }, '$.a[0]', { name: 'TypeError' }],
    [
      'a getter that serializes',
      {
        get a() {
          return serialize(1n)
        },
      },
      '$.a',
      { code: own.code, path: '$' },
    ],
  ])('%s', (_what, payload, path, cause) => {
    expect(refusal(payload)).toMatchObject({ path, cause })
  })

  test('a toJSON that does so only when it is asked again', () => {
    let calls = 0
    const moody = (second: () => unknown) => {
      calls = 0
      return { toJSON: () => (calls++ === 0 ? 1 : second()) }
    }
    expect(refusal(moody(throwing))).toMatchObject({ path: '$', cause: { message: 'from within' } })
    expect(refusal(moody(() => undefined)).path).toBe('$')
  })
})

describe('what JSON takes is taken as JSON takes it', () => {
  // As querystring and cookie parsers make them.
  const bare: object = Object.create(null)
  const parsed = (fields: object): object => Object.assign(Object.create(bare), fields)

  test.each<[string, unknown, string]>([
    ['undefined', undefined, 'null'],
    ['undefined properties', { a: undefined, b: [{ c: undefined }] }, '{"b":[{}]}'],
    ['-0', [-0], '[0]'],
    ['symbol keys', { [Symbol('s')]: 1 }, '{}'],
    ['public fields', new Point(), '{"x":1,"y":0}'],
    [
      'fields that are undefined',
      new (class {
        a = undefined
      })(),
      '{}',
    ],
    ['a toJSON', { price: new Money() }, '{"price":"12.34"}'],
    ['a toJSON of null', returning(null), 'null'],
    ['a toJSON of fields', returning(new Point()), '{"x":1,"y":0}'],
    [
      'a toJSON of itself',
      {
        a: 1,
        toJSON() {
          return this
        },
      },
      '{"a":1}',
    ],
    ['dates within a toJSON', returning({ at: new Date(0) }), '{"at":"1970-01-01T00:00:00.000Z"}'],
    ['boxed values', [new Number(1), new String('s'), new Boolean(false)], '[1,"s",false]'],
    ['a URL', new URL('http://a/'), '"http://a/"'],
    ['a subclass of Array', class extends Array {}.from([1, 2]), '[1,2]'],
    ['a subclass of Date', new (class extends Date {})(0), '"1970-01-01T00:00:00.000Z"'],
    ['a proxy', new Proxy({ a: [1] }, {}), '{"a":[1]}'],
    ['no prototype', Object.assign(Object.create(null), { a: Object.create(null) }), '{"a":{}}'],
    ['a prototype of nothing', [parsed({}), parsed({ a: 1 })], '[{},{"a":1}]'],
    [
      'another realm',
      runInNewContext('[{}, [], { a: { b: {} } }, new Date(0)]'),
      '[{},[],{"a":{"b":{}}},"1970-01-01T00:00:00.000Z"]',
    ],
    ['the same object twice', ((one) => [one, { one }])({}), '[{},{"one":{}}]'],
    ['lone surrogates', '\ud800', '"\\ud800"'],
  ])('%s', (_what, payload, text) => {
    expect(serialize(payload)).toBe(text)
  })

  test('toJSON is told its key, as JSON tells it', () => {
    const keys: unknown[] = []
    const told = { toJSON: (key: unknown) => keys.push(key) }
    for (const payload of [told, [told], { a: told }]) serialize(payload)
    expect(keys).toEqual(['', '', '0', '0', 'a', 'a'])
  })

  test('paths', () => {
    expect(refusal({ 'a b': [[{ $c: { 1: 1n } }]] }).path).toBe('$["a b"][0][0].$c["1"]')
    expect(refusal(JSON.parse('{"a":{"__proto__":{}}}')).path).toBe('$.a.__proto__')
    const cycle: unknown[] = []
    cycle.push({ cycle })
    expect(refusal(cycle)).toMatchObject({ path: '$[0].cycle', message: expect.stringContaining('a cycle') })
    let deep: unknown = []
    for (let levels = 0; levels < 5_000; levels++) deep = [deep]
    expect(refusal(deep).message.length).toBeLessThan(200)
  })
})
