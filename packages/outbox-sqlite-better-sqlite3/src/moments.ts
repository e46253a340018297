import type { When } from 'outbox-core'

/** Parameters for a moment: absolute, or from the database's own now. */
export function whenParameters(when: When): [number | null, number | null] {
  return 'at' in when ? [wholeMs(when.at), null] : [null, wholeMs(when.inMs)]
}

/**
 * SQLite binds NaN as NULL, JSON makes it `null`, what is no whole number fits into no column of whole numbers, and beyond
 * these a moment comes back as another one than was stored.
 */
export function isMoment(ms: number): boolean {
  return ms <= Number.MAX_SAFE_INTEGER && ms >= Number.MIN_SAFE_INTEGER
}

/** No sooner than it was asked for. */
export function wholeMs(ms: number): number {
  return Math.ceil(ms)
}
