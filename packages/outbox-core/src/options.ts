import ms from 'ms'
import { ConfigurationError } from './errors.ts'

/** A length of time: a number of milliseconds, or text such as `'500ms'`, `'30s'`, `'10m'`, `'2h'`, `'7d'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd' | 'w'}`

// Beyond a century a time to live or a delay is a mistake, and some databases overflow.
const LONGEST_DURATION_MS = 100 * 365.25 * 24 * 3600 * 1000

/** Milliseconds of a duration option, refused unless it is a whole number in `[least, a century]`. */
export function durationMs(option: string, value: Duration, least = 1): number {
  const parsed = typeof value === 'string' ? parseDuration(value) : value
  if (
    typeof parsed !== 'number' ||
    !Number.isFinite(parsed) ||
    parsed < least ||
    parsed > LONGEST_DURATION_MS
  ) {
    throw new ConfigurationError(
      option,
      value,
      `it must be a number of milliseconds or text like '30s' or '7d', at least ${least} ms and at most 100 years`,
    )
  }
  // Not -0.
  return Math.ceil(parsed) + 0
}

/**
 * Whole milliseconds of a delay that can no longer be refused, since nobody is there to mend it: below 0 it is 0, beyond
 * a century it is a century. `undefined` for what is no length of time, NaN included.
 */
export function clampedDelayMs(value: unknown): number | undefined {
  const parsed = typeof value === 'string' ? parseDuration(value) : value
  if (typeof parsed !== 'number' || Number.isNaN(parsed)) return undefined
  return Math.min(LONGEST_DURATION_MS, Math.max(0, Math.ceil(parsed)))
}

// Text without a unit might as well be meant in seconds.
function parseDuration(text: string): number | undefined {
  if (!/[a-z]$/i.test(text)) return undefined
  try {
    return ms(text as ms.StringValue)
  } catch {
    return undefined
  }
}

/** A whole-number option, refused outside `[least, most]`. */
export function wholeNumber(
  option: string,
  value: number,
  least: number,
  most: number = Number.MAX_SAFE_INTEGER,
): number {
  if (!Number.isInteger(value) || value < least || value > most) {
    const range = most === Number.MAX_SAFE_INTEGER ? `at least ${least}` : `from ${least} to ${most}`
    throw new ConfigurationError(option, value, `it must be a whole number, ${range}`)
  }
  return value
}

/**
 * A table, collection or schema name. Only such names ever reach a statement's text, since names can't be bound
 * as parameters.
 */
export function identifier(option: string, value: string): string {
  if (typeof value !== 'string' || !/^[A-Za-z_][A-Za-z0-9_]{0,47}$/.test(value)) {
    throw new ConfigurationError(
      option,
      value,
      'a name starts with a letter or _, holds letters, digits and _, and has at most 48 characters',
    )
  }
  return value
}

/** Names of tables or collections, each an identifier and none used twice, whatever the case. */
export function identifiers<const Names extends Readonly<Record<string, string>>>(
  option: string,
  names: Names,
): Names {
  const taken = new Set<string>()
  for (const [key, name] of Object.entries(names)) {
    const folded = identifier(`${option}.${key}`, name).toLowerCase()
    if (taken.has(folded)) {
      throw new ConfigurationError(`${option}.${key}`, name, 'another table has this name already')
    }
    taken.add(folded)
  }
  return names
}
