import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { retryPolicy } from '../src/delivering/retry.ts'
import { clampedDelayMs, type Duration } from '../src/duration.ts'
import { ConfigurationError } from '../src/errors.ts'
import { durationMs } from '../src/options.ts'

const CENTURY_MS = 100 * 365.25 * 24 * 3600 * 1000
const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 }

/** What a duration option may be given by someone who has no types: what the type names, and everything else. */
const numbers = fc.oneof(
  fc.double(),
  fc.integer(),
  fc.double({ min: -10, max: 10 }),
  fc.constantFrom(-0, 0, CENTURY_MS, CENTURY_MS + 1, Number.MAX_VALUE, Number.MIN_VALUE),
)
const amounts = fc.oneof(
  fc.integer({ min: -5, max: 1_000_000 }).map(String),
  fc.double({ min: -5, max: 1_000, noNaN: true }).map((value) => value.toFixed(3)),
  fc.constantFrom('', '.5', '-', 'NaN', 'Infinity', '1e3', '0x10', '1_000', '1,5'),
)
const texts = fc.oneof(
  fc.tuple(amounts, fc.constantFrom('', ' '), fc.constantFrom(...Object.keys(UNITS), '', 'y', 'x')),
  fc.tuple(fc.string(), fc.constant(''), fc.constant('')),
)
const others = fc.anything({
  withBigInt: true,
  withBoxedValues: true,
  withDate: true,
  withNullPrototype: true,
})

/** The units of the package `ms`, each by its first letters. */
const LONGER =
  /^(-?\d*\.?\d+) *(?:(ms|milliseconds?|msecs?)|(s|seconds?|secs?)|(m|minutes?|mins?)|(h|hours?|hrs?)|(d|days?)|(w|weeks?)|(y|years?|yrs?))$/i

function expectedMs(text: string): number | undefined {
  const [, amount, ...units] = LONGER.exec(text) ?? []
  if (amount === undefined) return undefined
  const { ms = 0, s = 0, m = 0, h = 0, d = 0, w = 0 } = UNITS as Readonly<Record<string, number>>
  const year = CENTURY_MS / 100
  const index = units.findIndex((unit) => unit !== undefined)
  return Number(amount) * ([ms, s, m, h, d, w, year][index] ?? 0)
}

function refusedOr(value: unknown, least: number): number | 'refused' {
  try {
    return durationMs('delay', value as Duration, least)
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigurationError)
    return 'refused'
  }
}

describe('durationMs', () => {
  test('takes numbers from the least to a century, and rounds them up', () => {
    fc.assert(
      fc.property(numbers, fc.constantFrom(0, 1, 10), (value, least) => {
        const fits = value >= least && value <= CENTURY_MS
        expect(refusedOr(value, least)).toBe(fits ? Math.ceil(value) + 0 : 'refused')
      }),
      { numRuns: 5_000 },
    )
  })

  test('takes text with a unit, and refuses every other', () => {
    fc.assert(
      fc.property(texts, fc.constantFrom(0, 1, 10), (parts, least) => {
        const expected = expectedMs(parts.join(''))
        const fits = expected !== undefined && expected >= least && expected <= CENTURY_MS
        expect(refusedOr(parts.join(''), least)).toBe(fits ? Math.ceil(expected) + 0 : 'refused')
      }),
      { numRuns: 5_000 },
    )
  })

  test('refuses whatever else there is', () => {
    const neither = others.filter((value) => typeof value !== 'number' && typeof value !== 'string')
    fc.assert(
      fc.property(neither, (value) => {
        expect(refusedOr(value, 0)).toBe('refused')
      }),
    )
  })

  test.each(['10', '10 ', '', 's', '1 0s', '10 parsecs', `${'1'.repeat(101)}ms`])(
    'refuses the text "%s"',
    (text) => {
      expect(refusedOr(text, 0)).toBe('refused')
    },
  )
})

describe('clampedDelayMs', () => {
  test.each<[unknown, number | undefined]>([
    [1_500, 1_500],
    ['1.5s', 1_500],
    ['7d', 7 * 86_400_000],
    [0.2, 1],
    [-0, 0],
    [-0.5, 0],
    [-1, 0],
    ['-5s', 0],
    [Number.NEGATIVE_INFINITY, 0],
    [CENTURY_MS + 1, CENTURY_MS],
    [Number.POSITIVE_INFINITY, CENTURY_MS],
    ['500y', CENTURY_MS],
    [Number.NaN, undefined],
    [undefined, undefined],
    [null, undefined],
    ['soon', undefined],
    ['', undefined],
    ['10', undefined],
    [10n, undefined],
    [true, undefined],
    [[10], undefined],
    [new Date(), undefined],
    [new Number(10), undefined],
    [{ valueOf: () => 10 }, undefined],
    [Symbol('10'), undefined],
  ])('%o is %s', (value, expected) => {
    expect(clampedDelayMs(value)).toBe(expected)
  })

  test('is whole and within its bounds, whatever it is given, and the same as the option takes', () => {
    const anyValue = fc.oneof(
      numbers,
      texts.map((parts) => parts.join('')),
      others,
    )
    fc.assert(
      fc.property(anyValue, (value) => {
        const clamped = clampedDelayMs(value)
        if (clamped !== undefined) {
          expect(Number.isInteger(clamped)).toBe(true)
          expect(clamped).toBeGreaterThanOrEqual(0)
          expect(clamped).toBeLessThanOrEqual(CENTURY_MS)
        }
        const taken = refusedOr(value, 0)
        if (taken !== 'refused') expect(clamped).toBe(taken)
      }),
      { numRuns: 5_000 },
    )
  })
})

describe('the delay after failed attempts', () => {
  test('is a whole number from 0 to the longest, whatever the options and however many have failed', () => {
    const delays = fc.oneof(fc.constantFrom(0, 1, CENTURY_MS), fc.nat(1_000_000))
    fc.assert(
      fc.property(
        delays,
        delays,
        fc.oneof(fc.constantFrom(1, 100), fc.double({ min: 1, max: 100, noNaN: true })),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.oneof(fc.integer({ min: 1, max: 1_000_000 }), fc.constantFrom(1, 154, 155, 156, 1_025)),
        (one, other, factor, jitter, chance, failed) => {
          const [delay, maxDelay] = [Math.min(one, other), Math.max(one, other)]
          const policy = retryPolicy({ maxAttempts: 200, delay, maxDelay, factor, jitter }, () => chance)
          const wait = policy.delayAfter(failed)
          expect(Number.isInteger(wait), `${wait}`).toBe(true)
          expect(wait).toBeGreaterThanOrEqual(0)
          expect(wait).toBeLessThanOrEqual(maxDelay)
          expect(policy.horizonMs).toBeGreaterThanOrEqual(0)
          expect(policy.horizonMs).toBeLessThanOrEqual(199 * maxDelay)
        },
      ),
      { numRuns: 5_000 },
    )
  })

  test('stays 0 where it is 0, after any number of attempts', () => {
    const policy = retryPolicy({ maxAttempts: 1_000_000, delay: 0, factor: 100 })
    expect([1, 154, 155, 156, 999_999].map(policy.delayAfter)).toEqual([0, 0, 0, 0, 0])
    expect(policy.horizonMs).toBe(0)
  })
})
