import ms from 'ms'

/** A length of time: a number of milliseconds, or text such as `'500ms'`, `'30s'`, `'10m'`, `'2h'`, `'7d'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd' | 'w'}`

// Beyond a century a time to live or a delay is a mistake, and some databases overflow.
export const LONGEST_DURATION_MS: number = 100 * 365.25 * 24 * 3600 * 1000

// Beyond it the databases' own times end, each somewhere else.
export const LATEST_MS: number = Date.UTC(9999, 11, 31)

/** Milliseconds of a duration as it was given, not rounded; `undefined` when it is none. */
export function parsedDuration(value: unknown): number | undefined {
  const parsed = typeof value === 'string' ? parsedText(value) : value
  return typeof parsed === 'number' && !Number.isNaN(parsed) ? parsed : undefined
}

/**
 * Whole milliseconds of a delay that can no longer be refused, since nobody is there to mend it: below 0 it is 0, beyond
 * a century it is a century. `undefined` for what is no length of time, NaN included.
 */
export function clampedDelayMs(value: unknown): number | undefined {
  const parsed = parsedDuration(value)
  return parsed === undefined ? undefined : Math.min(LONGEST_DURATION_MS, Math.max(0, Math.ceil(parsed)))
}

// Text without a unit might as well be meant in seconds.
function parsedText(text: string): number | undefined {
  if (!/[a-z]$/i.test(text)) return undefined
  try {
    return ms(text as ms.StringValue)
  } catch {
    return undefined
  }
}
