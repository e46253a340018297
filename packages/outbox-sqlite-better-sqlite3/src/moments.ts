import { type Outcome, StorageError, type When } from 'outbox-core'

/** Parameters for a moment: absolute, or from the database's own now. */
export function whenParameters(when: When): [number | null, number | null] {
  return 'at' in when ? [wholeMs(when.at), null] : [null, wholeMs(when.inMs)]
}

/**
 * Refuses moments that are none before anything is written: SQLite binds NaN as NULL, JSON makes it `null`, and what is
 * no whole number fits into no column of whole numbers.
 */
export function assertMoments(outcomes: readonly Outcome[]): void {
  for (const { settle, append, put } of outcomes) {
    if (settle?.kind === 'retry') assertMoment(settle.delayMs)
    if (settle?.kind === 'complete') assertMoment(settle.keepMs)
    for (const { due } of append) assertMoment('at' in due ? due.at : due.inMs)
    for (const { expires } of put) assertMoment('at' in expires ? expires.at : expires.inMs)
  }
}

// Beyond these, a moment comes back as another one than was stored.
function assertMoment(ms: number): void {
  if (ms <= Number.MAX_SAFE_INTEGER && ms >= Number.MIN_SAFE_INTEGER) return
  throw new StorageError('a moment is no number of milliseconds that SQLite can hold; nothing was written', {
    transient: false,
    refused: true,
  })
}

/** No sooner than it was asked for. */
export function wholeMs(ms: number): number {
  return Math.ceil(ms)
}
