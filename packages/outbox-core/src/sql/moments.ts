import type { When } from '../storage.ts'
import type { Parts } from './parts.ts'

/** Of rows, which have the one or the other. Counted from the moment of the statement: now() is when its transaction began. */
export const momentIn = (at: string, delay: string): string =>
  `coalesce(to_timestamp(${at} / 1000.0), clock_timestamp() + ${delay} * interval '1 millisecond')`

/** The same of a single one. Most are due at once: that much less for the server to plan. */
export function moment(parts: Parts, when: When): string {
  const { at, delay = 0 } = due(when)
  if (at !== undefined) return `to_timestamp(${parts.parameter(at)}::float8 / 1000.0)`
  if (delay === 0) return 'clock_timestamp()'
  return `clock_timestamp() + ${parts.parameter(delay)}::float8 * interval '1 millisecond'`
}

export function due(when: When): { at?: number; delay?: number } {
  return 'at' in when ? { at: when.at } : { delay: when.inMs }
}
