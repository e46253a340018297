import { type Duration, LONGEST_DURATION_MS, parsedDuration } from './duration.ts'
import { ConfigurationError } from './errors.ts'

export type { Duration } from './duration.ts'

/** Milliseconds of a duration option, rounded up, refused outside `[least, a century]`. */
export function durationMs(option: string, value: Duration, least = 1): number {
  const parsed = parsedDuration(value)
  // Not -0.
  if (parsed !== undefined && parsed >= least && parsed <= LONGEST_DURATION_MS) return Math.ceil(parsed) + 0
  throw new ConfigurationError(
    option,
    value,
    `it must be a number of milliseconds or text like '30s' or '7d', at least ${least} ms and at most 100 years`,
  )
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
