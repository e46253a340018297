import { StorageError } from '../errors.ts'
import type { Outcome, When } from '../storage.ts'
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

/**
 * Postgres has times that never come, and JSON makes null of a number that is none: such an event would be gone, or
 * refused as if a column were missing.
 *
 * @throws StorageError that says it was refused
 */
export function assertMoments(outcomes: readonly Outcome[]): void {
  for (const { settle, append, put } of outcomes) {
    for (const event of append) assertMoment(event.due)
    for (const { expires } of put) assertMoment(expires)
    if (settle?.kind === 'retry') assertMilliseconds(settle.delayMs)
    if (settle?.kind === 'complete') assertMilliseconds(settle.keepMs)
  }
}

function assertMoment(when: When): void {
  assertMilliseconds('at' in when ? when.at : when.inMs)
}

function assertMilliseconds(value: number): void {
  if (Number.isFinite(value)) return
  throw new StorageError('a moment is not a finite number of milliseconds; nothing was written', {
    transient: false,
    refused: true,
  })
}
