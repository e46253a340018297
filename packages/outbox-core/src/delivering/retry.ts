import { ConfigurationError } from '../errors.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'

/** When a failed attempt is made again, and how often. */
export interface RetryOptions {
  /**
   * Attempts in all, the first included. An attempt that killed its process counts.
   * @default 10
   */
  readonly maxAttempts?: number
  /**
   * Wait after the first failed attempt; each further wait is `factor` times longer.
   * @default '1s'
   */
  readonly delay?: Duration
  /** @default 2 */
  readonly factor?: number
  /**
   * No wait is longer than this.
   * @default '5m'
   */
  readonly maxDelay?: Duration
  /**
   * Share of each wait that is random, from 0 (none) to 1 (all of it), so that what failed together is not tried
   * again together. See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
   * @default 0.5
   */
  readonly jitter?: number
}

/** A checked retry policy. */
export interface RetryPolicy {
  readonly maxAttempts: number
  /** Milliseconds to wait after `failed` failed attempts (1 or more). */
  delayAfter(failed: number): number
  /** Longest time in milliseconds from the first to the last attempt, not counting the attempts themselves. */
  readonly horizonMs: number
}

/** @throws ConfigurationError naming the option. */
export function retryPolicy(options: RetryOptions = {}, random: () => number = Math.random): RetryPolicy {
  const maxAttempts = wholeNumber('retry.maxAttempts', options.maxAttempts ?? 10, 1, 1_000_000)
  const delay = durationMs('retry.delay', options.delay ?? '1s', 0)
  const maxDelay = durationMs('retry.maxDelay', options.maxDelay ?? Math.max(delay, 300_000), 0)
  const factor = ratio('retry.factor', options.factor ?? 2, 1, 100)
  const jitter = ratio('retry.jitter', options.jitter ?? 0.5, 0, 1)
  if (maxDelay < delay)
    throw new ConfigurationError('retry.maxDelay', options.maxDelay, 'it must not be below retry.delay')
  // The power may be infinite, and 0 times that is not a number.
  const longest = (failed: number): number =>
    delay === 0 ? 0 : Math.min(maxDelay, delay * factor ** (failed - 1))
  return {
    maxAttempts,
    delayAfter: (failed) => Math.round(longest(failed) * (1 - jitter * random())),
    horizonMs: horizon(maxAttempts, longest, maxDelay),
  }
}

function horizon(maxAttempts: number, longest: (failed: number) => number, maxDelay: number): number {
  let total = 0
  for (let failed = 1; failed < maxAttempts; failed++) {
    const wait = longest(failed)
    if (wait >= maxDelay) return total + (maxAttempts - failed) * maxDelay
    total += wait
  }
  return total
}

function ratio(option: string, value: number, least: number, most: number): number {
  if (typeof value !== 'number' || !(value >= least && value <= most)) {
    throw new ConfigurationError(option, value, `it must be a number from ${least} to ${most}`)
  }
  return value
}
