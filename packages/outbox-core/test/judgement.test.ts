import { describe, expect, test } from 'vitest'
import { causeOf, type Failed, isLastAttempt, judge, type Place } from '../src/delivering/judgement.ts'
import { retryPolicy } from '../src/delivering/retry.ts'
import {
  ClaimUntakenError,
  HandlerMissingError,
  LeaseLostError,
  PermanentError,
  RetryLaterError,
  SchemaError,
  StoppingError,
  StorageError,
  TimeoutError,
  UnknownKeyError,
} from '../src/index.ts'

const PLACES: readonly Place[] = ['before', 'handler', 'writing']

const ERRORS = {
  event: [
    new PermanentError('no'),
    new SchemaError('a', []),
    new StorageError('refused', { transient: false, refused: true }),
  ],
  process: [new HandlerMissingError('a'), new UnknownKeyError('k'), new ClaimUntakenError('a')],
  environment: [
    new StorageError('away', { transient: true }),
    new StorageError('unclear', { transient: false }),
    new TimeoutError('slow'),
    new RetryLaterError('soon', Number.NaN),
    new Error('of the user'),
    Object.assign(new Error('looks like ours'), { blame: 'event' }),
  ],
} as const

const TABLE: Readonly<Record<Place, Readonly<Record<keyof typeof ERRORS, string>>>> = {
  before: { event: 'bury', process: 'defer', environment: 'defer' },
  handler: { event: 'bury', process: 'retry', environment: 'retry' },
  writing: { event: 'bury', process: 'defer', environment: 'defer' },
}

function failed(changes: Partial<Failed>): Failed {
  return {
    place: 'handler',
    error: new Error('no'),
    abortReason: undefined,
    attempt: 1,
    policy: retryPolicy({ maxAttempts: 3, delay: 1_000, jitter: 0 }),
    ageMs: 0,
    outOfPatience: () => false,
    ...changes,
  }
}

describe.each(PLACES)('%s', (place) => {
  describe.each(Object.keys(ERRORS) as (keyof typeof ERRORS)[])('a failure of the %s', (blame) => {
    test.each(ERRORS[blame].map((error) => [error.name, error] as const))('%s', (_, error) => {
      const expected = TABLE[place][blame]
      for (const attempt of [1, 2, 3, 4]) {
        const last = attempt >= 3 && expected === 'retry'
        expect(judge(failed({ place, error, attempt })).kind).toBe(last ? 'bury' : expected)
      }
      // Only what this process lacks has a bound in time.
      const patient = failed({ place, error, outOfPatience: () => true })
      expect(judge(patient).kind).toBe(place === 'before' && blame === 'process' ? 'bury' : expected)
      for (const abortReason of [new StoppingError('stop'), new LeaseLostError('lost')])
        expect(judge(failed({ place, error, abortReason, attempt: 9, outOfPatience: () => true }))).toEqual({
          kind: 'release',
        })
      // That a handler has taken too long is a failure like any other.
      expect(judge(failed({ place, error, abortReason: new TimeoutError('slow') })).kind).toBe(expected)
    })
  })
})

test('patience is asked for only where it matters', () => {
  let asked = 0
  const outOfPatience = (): boolean => {
    asked++
    return false
  }
  for (const place of PLACES)
    for (const error of Object.values(ERRORS).flat()) judge(failed({ place, error, outOfPatience }))
  expect(asked).toBe(ERRORS.process.length)
})

test('a retry waits by its policy, or as long as the handler has chosen', () => {
  expect(judge(failed({}))).toEqual({ kind: 'retry', delayMs: 1_000 })
  expect(judge(failed({ attempt: 2 }))).toEqual({ kind: 'retry', delayMs: 2_000 })
  for (const [delay, delayMs] of [
    [5, 5],
    ['30s', 30_000],
    [0, 0],
    [-1, 0],
    [Number.NaN, 1_000],
    [undefined, 1_000],
    [1.5, 2],
  ] as const) {
    const error = new RetryLaterError('later', delay as number)
    expect(judge(failed({ error }))).toEqual({ kind: 'retry', delayMs })
  }
  const centuries = judge(failed({ error: new RetryLaterError('later', Number.POSITIVE_INFINITY) }))
  expect(centuries).toMatchObject({ kind: 'retry' })
  expect(Number.isSafeInteger((centuries as { delayMs: number }).delayMs)).toBe(true)
})

test.each([
  [-5, 20, 20],
  [0, 20, 20],
  [1_000, 75, 125],
  [60_000, 4_500, 7_500],
  [86_400_000, 60_000, 60_000],
  [Number.MAX_SAFE_INTEGER, 60_000, 60_000],
])('what is %d ms old is deferred for %d to %d ms', (ageMs, least, most) => {
  for (let n = 0; n < 50; n++) {
    const verdict = judge(failed({ place: 'before', ageMs }))
    const delayMs = verdict.kind === 'defer' ? verdict.delayMs : -1
    expect(Number.isInteger(delayMs)).toBe(true)
    expect(delayMs).toBeGreaterThanOrEqual(least)
    expect(delayMs).toBeLessThanOrEqual(most)
  }
})

test('the last attempt is the one after which the handler is not called again', () => {
  const policy = retryPolicy({ maxAttempts: 3 })
  const last = (error: Error): boolean[] =>
    [1, 2, 3, 4].map((attempt) => isLastAttempt(error, attempt, policy))
  expect(last(new Error('no'))).toEqual([false, false, true, true])
  expect(last(new RetryLaterError('later', 1))).toEqual([false, false, true, true])
  expect(last(new PermanentError('no'))).toEqual([true, true, true, true])
})

test('a failure is down to what a chosen delay was wrapped around', () => {
  const cause = new TypeError('no')
  const bare = new RetryLaterError('later', 1)
  expect(causeOf(new RetryLaterError('later', 1, { cause }))).toBe(cause)
  expect(causeOf(new RetryLaterError('later', 1, { cause: 'text' }))).toMatchObject({ message: 'later' })
  expect(causeOf(bare)).toBe(bare)
  expect(causeOf(new Error('outer', { cause }))).toMatchObject({ message: 'outer' })
})
