import { runInNewContext } from 'node:vm'
import * as fc from 'fast-check'
import pino from 'pino'
import { describe, expect, test } from 'vitest'
import { alsoOf, ConfigurationError, OutboxError, StorageError } from '../src/errors.ts'
import { errFields, errorFields, type LoggedError, toError } from '../src/thrown.ts'

const SECRET = 'payload-4711'

const throwing = (): never => {
  throw new Error('from within')
}

function withField(key: string, value: unknown): Error {
  return Object.defineProperty(new Error('plain'), key, { value })
}

function withGetter(key: string): Error {
  return Object.defineProperty(new Error('plain'), key, { get: throwing })
}

function revoked(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {})
  revoke()
  return proxy
}

/** A chain of so many errors, the outermost first. */
function chainOf(length: number): Error {
  let error = new Error(`level ${length}`)
  for (let level = length - 1; level > 0; level--) error = new Error(`level ${level}`, { cause: error })
  return error
}

function circular(): Error {
  const inner = new Error('inner')
  const outer = new Error('outer', { cause: inner })
  inner.cause = outer
  return outer
}

/** An object whose chain of prototypes never ends. */
function endless(): object {
  const proxy: object = new Proxy({}, { getPrototypeOf: () => proxy })
  return Object.create(proxy)
}

const everyTrapThrows = new Proxy(
  {},
  { get: (_target, _trap) => throwing },
) as unknown as ProxyHandler<object>

const KEYS = ['message', 'name', 'code', 'stack', 'cause', 'constructor'] as const

const VALUES: unknown[] = [
  undefined,
  null,
  '',
  'x'.repeat(1_000_000),
  '\0nul\0',
  '\ud800lone\udc00',
  `${'x'.repeat(99)}😀`,
  42,
  Number.NaN,
  10n ** 1_000n,
  Symbol('\ud800\0'),
  {},
  Object.create(null),
  [1],
  () => 1,
  class Named {},
  new Proxy({}, { get: throwing }),
  revoked({}),
  { toString: throwing, valueOf: throwing, toJSON: throwing },
  { name: SECRET, message: SECRET },
]

const MONSTERS: unknown[] = [
  ...KEYS.flatMap((key) => [withGetter(key), ...VALUES.map((value) => withField(key, value))]),
  ...VALUES,
  circular(),
  chainOf(1_000),
  endless(),
  revoked(new Error('x')),
  revoked(() => {}),
  new Proxy(new Error('behind'), {}),
  new Proxy(new Error('behind'), everyTrapThrows),
  new Proxy(() => {}, everyTrapThrows),
  new Proxy(new Error('behind'), { getPrototypeOf: throwing }),
  Object.freeze(new Error('frozen')),
  Object.create(Error.prototype),
  Object.setPrototypeOf(new Error('bare'), null),
  new AggregateError([new Error(SECRET)], 'several'),
  new DOMException('aborted', 'AbortError'),
  Object.assign(new Error('of a driver'), {
    config: { data: SECRET },
    parameters: [SECRET],
    query: SECRET,
    toJSON: () => SECRET,
    [Symbol.toPrimitive]: () => SECRET,
  }),
]

function everyText(error: LoggedError): string[] {
  const { cause, ...texts } = error
  return [...Object.values(texts), ...(cause ? everyText(cause) : [])]
}

function depth({ cause }: LoggedError): number {
  return cause ? 1 + depth(cause) : 0
}

function expectTold(thrown: unknown): void {
  const error = toError(thrown)
  if (error !== thrown) expect(error.cause).toBe(thrown)
  const fields = errorFields(thrown)
  const { err } = errFields(thrown)
  expect(fields.name).not.toBe('')
  expect(err.type).not.toBe('')
  for (const value of [...Object.values(fields), ...everyText(err)]) {
    expect(typeof value).toBe('string')
    expect(value.isWellFormed()).toBe(true)
    expect(value).not.toContain('\0')
    expect(value).not.toContain(SECRET)
    expect(value.length).toBeLessThanOrEqual(4_000)
  }
  for (const name of [fields.name, fields.code, err.type, err.code]) {
    expect(name?.length ?? 0).toBeLessThanOrEqual(100)
  }
  for (const message of [fields.message, err.message]) expect(message.length).toBeLessThanOrEqual(1_000)
  expect(Object.keys(fields).filter((key) => !['name', 'code', 'message'].includes(key))).toEqual([])
  expect(
    Object.keys(err).filter((key) => !['type', 'message', 'stack', 'code', 'cause'].includes(key)),
  ).toEqual([])
  expect(depth(err)).toBeLessThanOrEqual(5)
}

describe('anything thrown', () => {
  test('is told of', () => {
    const any = fc.anything({
      withBigInt: true,
      withBoxedValues: true,
      withDate: true,
      withNullPrototype: true,
    })
    const dressed = fc
      .tuple(fc.constantFrom(...KEYS), fc.oneof(any, fc.string({ unit: 'binary', maxLength: 5_000 })))
      .map(([key, value]) => withField(key, value))
    fc.assert(fc.property(fc.oneof(any, dressed), expectTold), { numRuns: 3_000 })
  })

  test.each(MONSTERS.map((monster, index) => [index, monster] as const))('monster %d', (_index, monster) => {
    expectTold(monster)
  })

  test.each<[unknown, string]>([
    [undefined, 'undefined'],
    [null, 'null'],
    ['oops', '"oops"'],
    ['x'.repeat(61), `"${'x'.repeat(60)}…"`],
    [42, '42'],
    [42n, '42'],
    [2n ** 64n, 'a BigInt'],
    [Symbol('s'), 'Symbol(s)'],
    [() => 1, 'a function'],
    [{ secret: SECRET }, 'of type Object'],
    [Object.create(null), 'of type object'],
    [new Map(), 'of type Map'],
  ])('what is no error is wrapped: %o', (thrown, told) => {
    const error = toError(thrown)
    expect(error).toBeInstanceOf(Error)
    expect(error.cause).toBe(thrown)
    const message = `a non-Error was thrown: ${told}`
    expect(errorFields(thrown)).toEqual({ name: 'Error', message })
    expect(errFields(thrown)).toMatchObject({ err: { type: 'Error', message } })
  })

  test('errors stay themselves, those of another realm too', () => {
    for (const error of [
      new StorageError('lost', { transient: true }),
      runInNewContext('new TypeError("x")'),
    ]) {
      expect(toError(error)).toBe(error)
    }
    expect(errorFields(runInNewContext('new TypeError("x")'))).toEqual({ name: 'TypeError', message: 'x' })
  })
})

describe('what is told of an error', () => {
  const refused = Object.assign(new StorageError('the database refused it', { transient: false }), {
    query: SECRET,
  })

  test('name, code and message', () => {
    expect(errorFields(refused)).toEqual({
      name: 'StorageError',
      code: 'OUTBOX_STORAGE',
      message: 'the database refused it',
    })
    expect(errorFields(Object.assign(new Error('x'), { code: 11000 }))).toMatchObject({ code: '11000' })
    expect(errorFields(Object.assign(new Error('x'), { code: '\0' }))).toEqual({
      name: 'Error',
      message: 'x',
    })
    expect(errorFields(withField('message', 42))).toMatchObject({ message: '42' })
    expect(errorFields(withField('name', 'a\0b\ud800'))).toMatchObject({ name: 'ab\ufffd' })
    expect(errorFields(new Error('x'.repeat(2_000))).message).toBe('x'.repeat(1_000))
  })

  test('its class, its stack and its causes, five at most', () => {
    class OrderError extends Error {}
    const { err } = errFields(new OrderError('outer', { cause: refused }))
    expect(err).toMatchObject({
      type: 'OrderError',
      message: 'outer',
      stack: expect.stringMatching(/ {4}at /),
    })
    expect(err.cause).toMatchObject({ type: 'StorageError', code: 'OUTBOX_STORAGE' })
    expect(JSON.stringify(err)).not.toContain(SECRET)
    expect([4, 5, 6, 7].map((length) => depth(errFields(chainOf(length)).err))).toEqual([3, 4, 5, 5])
    expect(depth(errFields(circular()).err)).toBe(1)
  })

  test('a long message leaves room for the stack', () => {
    const { err } = errFields(new Error('x'.repeat(100_000)))
    expect(err.stack).toMatch(/^Error: x{993}\n {4}at .*thrown\.test/)
    expect(err.stack?.length).toBeLessThanOrEqual(4_000)
  })

  test('pino takes it as its own', () => {
    const lines: string[] = []
    const logger = pino({}, { write: (line: string) => lines.push(line) })
    logger.error(errFields(new TypeError('outer', { cause: refused })), 'failed')
    const { err } = JSON.parse(lines[0] as string)
    expect(err).toMatchObject({ type: 'TypeError', message: 'outer: the database refused it' })
    expect(err.stack).toContain('caused by: StorageError')
    expect(lines[0]).not.toContain(SECRET)
  })
})

test('an error that is a driver’s as well is still one of its own class, and of no other', () => {
  class DriverError extends Error {}
  const error = alsoOf(new StorageError('conflict', { transient: true }), DriverError.prototype)
  expect(error).toBeInstanceOf(DriverError)
  expect(error).toBeInstanceOf(StorageError)
  expect(error).toBeInstanceOf(OutboxError)
  expect(error).not.toBeInstanceOf(ConfigurationError)
  expect(error).toMatchObject({
    name: 'StorageError',
    code: 'OUTBOX_STORAGE',
    message: 'conflict',
    transient: true,
  })
  for (const other of [new DriverError(), null, undefined, 'StorageError', {}]) {
    expect(other).not.toBeInstanceOf(OutboxError)
  }
})
