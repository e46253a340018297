import Database from 'better-sqlite3'
import fc from 'fast-check'
import {
  type Duration,
  InMemoryOutbox,
  OutboxError,
  OutboxEventBus,
  PermanentError,
  RetryLaterError,
} from 'outbox-core'
import { until } from 'outbox-core/testing'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { afterEach, beforeEach, expect, test } from 'vitest'

const RUNS = process.env['FAULTS'] === 'long' ? 2_000 : 60

const OUTBOXES = [
  ['in memory', () => new InMemoryOutbox({ logger: false })],
  ['sqlite', () => new SqliteBetterSqlite3Outbox(new Database(':memory:'), { logger: false })],
] as const

/** What a handler may do with an event, and whether the event is then completed or dead. */
interface Behaviour {
  readonly act: () => unknown
  readonly ends: 'completed' | 'dead'
}

const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom('', '\0', 'a\0b', '\ud800', 'x'.repeat(10_000), '__proto__', "';--"),
)

/** Made when asked for: fast-check looks into what it generates, and there are values that don't let it. */
type Made = () => unknown

const anything: fc.Arbitrary<Made> = fc.oneof(
  fc
    .anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true })
    .map((value) => () => value),
  fc.constantFrom<Made>(
    () => Symbol('s'),
    () => () => {},
    () => Object.create(null),
    () => undefined,
    () => Number.NaN,
    () => new Proxy({}, {}),
    revoked,
  ),
)

const texts: fc.Arbitrary<Made> = text.map((value) => () => value)

const errors: fc.Arbitrary<Made> = fc
  .record({ message: anything, name: fc.oneof(texts, anything), code: fc.oneof(texts, anything) })
  .map((fields) => () => {
    const error = new Error('x')
    for (const [key, made] of Object.entries(fields)) Object.defineProperty(error, key, { value: made() })
    return error
  })

const throwers: fc.Arbitrary<Made> = fc.oneof(
  anything,
  errors,
  text.map((message) => () => new PermanentError(message)),
  anything.map((cause) => () => new Error('caused', { cause: cause() })),
  fc.constantFrom<Made>(
    () => Object.defineProperty(new Error('x'), 'message', { get: () => fail() }),
    () => Object.freeze(new Error('frozen')),
  ),
)

/** What may be meant as a time, and what comes of headers that are not there. */
const delays = fc.oneof(
  fc.double({ max: 5 }),
  fc.constantFrom<unknown>(Number.NaN, -1, 0.5, '1ms', 'soon', '', undefined, null, {}, '-5s'),
)

const returned = anything.filter((made) => !isThenable(made()))

const behaviours: fc.Arbitrary<Behaviour> = fc.oneof(
  // What is returned means nothing, unless it can be waited for.
  returned.map((made) => ({ act: made, ends: 'completed' as const })),
  returned.map((made) => ({ act: async () => made(), ends: 'completed' as const })),
  throwers.map((made) => ({ act: () => raise(made()), ends: 'dead' as const })),
  throwers.map((made) => ({ act: async () => raise(made()), ends: 'dead' as const })),
  delays.map((delay) => ({
    act: () => raise(new RetryLaterError('later', delay as Duration)),
    ends: 'dead' as const,
  })),
)

let stray: unknown[] = []
const note = (error: unknown): void => void stray.push(error)

beforeEach(() => {
  stray = []
  process.on('unhandledRejection', note)
})

afterEach(() => {
  process.off('unhandledRejection', note)
  expect(stray).toEqual([])
})

for (const [name, make] of OUTBOXES) {
  test(`whatever handlers throw and return, every event has its end, ${name}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(behaviours, { minLength: 1, maxLength: 12 }), async (acts) => {
        const outbox = make()
        await outbox.initialize()
        const bus = new OutboxEventBus(outbox as never, {
          retry: { maxAttempts: 2, delay: 0 },
          poll: { max: 10 },
        })
        const completed = new Set<unknown>()
        bus.on('odd', ({ payload }) => {
          const { act, ends } = acts[payload as number] as Behaviour
          if (ends === 'completed') completed.add(payload)
          return act()
        })
        await bus.start()
        for (const index of acts.keys()) await bus.emit('odd', index)
        const dead = acts.filter(({ ends }) => ends === 'dead').length
        await until(async () => (await outbox.stats()).dead === dead && completed.size === acts.length - dead)
        await bus.stop()
        expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead })
      }),
      { numRuns: RUNS },
    )
  })

  test(`whatever is emitted is refused with a typed error, or comes back as JSON has it, ${name}`, async () => {
    const outbox = make()
    await outbox.initialize()
    const bus = new OutboxEventBus(outbox as never, { poll: { max: 10 } })
    const seen = new Map<string, { payload: unknown; headers: unknown }>()
    bus.on('any', ({ id, payload, headers }) => void seen.set(id, { payload, headers }))
    await bus.start()
    const headers = fc.dictionary(text, fc.oneof(texts, anything))
    await fc.assert(
      fc.asyncProperty(
        anything,
        fc.option(headers, { nil: undefined }),
        fc.option(text, { nil: undefined }),
        fc.option(delays, { nil: undefined }),
        async (made, dictionary, id, delay) => {
          const payload = made()
          const entries = Object.entries(dictionary ?? {}).map(([name, value]) => [name, value()])
          const given = Object.fromEntries(entries)
          const options = { headers: given, id, delay: delay as never }
          const emitted = await bus.emit('any', payload, options).catch((error: unknown) => error)
          if (typeof emitted !== 'string') {
            expect(emitted).toBeInstanceOf(OutboxError)
            return
          }
          await until(() => seen.has(emitted))
          expect(seen.get(emitted)).toEqual({
            payload: JSON.parse(JSON.stringify(payload) ?? 'null'),
            headers: given,
          })
          seen.delete(emitted)
          // As long as it is there, the same one emitted again is dropped.
          await until(async () => (await outbox.stats()).leased === 0)
        },
      ),
      { numRuns: RUNS * 5 },
    )
    await bus.stop()
    expect((await outbox.stats()).dead).toBe(0)
  })
}

function raise(thrown: unknown): never {
  throw thrown
}

function fail(): never {
  throw new Error('a getter that throws')
}

function revoked(): unknown {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

function isThenable(value: unknown): boolean {
  try {
    return typeof (value as { then?: unknown } | null)?.then === 'function'
  } catch {
    return true
  }
}
