import { expect, test } from 'vitest'
import { retryPolicy } from '../src/delivering/retry.ts'

const OPTIONS = { maxAttempts: 6, delay: 100, factor: 3, maxDelay: 2_000 } as const

test('delays grow by the factor up to the longest', () => {
  const { delayAfter } = retryPolicy({ ...OPTIONS, jitter: 0 })
  expect([1, 2, 3, 4, 5].map(delayAfter)).toEqual([100, 300, 900, 2_000, 2_000])
})

test('jitter shortens a delay by up to its share, never lengthens it', () => {
  const longest = retryPolicy({ ...OPTIONS, jitter: 0.5 }, () => 0)
  const shortest = retryPolicy({ ...OPTIONS, jitter: 0.5 }, () => 1)
  expect([1, 2, 3].map(longest.delayAfter)).toEqual([100, 300, 900])
  expect([1, 2, 3].map(shortest.delayAfter)).toEqual([50, 150, 450])
})

test('by default a delay is cut by up to half', () => {
  expect(retryPolicy({}, () => 0).delayAfter(1)).toBe(1_000)
  expect(retryPolicy({}, () => 1).delayAfter(1)).toBe(500)
  expect(retryPolicy({}, () => 0).delayAfter(10)).toBe(300_000)
})

test('the horizon is the sum of the longest delays', () => {
  expect(retryPolicy(OPTIONS).horizonMs).toBe(100 + 300 + 900 + 2_000 + 2_000)
})
