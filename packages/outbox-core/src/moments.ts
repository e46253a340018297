import { StorageError } from './errors.ts'
import { changeBy } from './settlement.ts'
import type { Outcome, When } from './storage.ts'

/**
 * For adapters, before anything of a write is sent: a moment that is none sorts nowhere, and its event would never come
 * back.
 *
 * @param isMoment whether the database holds that number of milliseconds, from the epoch or from now
 * @throws StorageError that says it was refused
 */
export function assertMoments(
  outcomes: readonly Outcome[],
  isMoment: (ms: number) => boolean = Number.isFinite,
): void {
  for (const { settle, append, put } of outcomes) {
    if (settle) assertMoment(changeBy(settle).inMs, isMoment)
    for (const { due } of append) assertMoment(given(due), isMoment)
    for (const { expires } of put) assertMoment(given(expires), isMoment)
  }
}

/** @throws StorageError that says it was refused */
export function assertMoment(ms: number, isMoment: (ms: number) => boolean = Number.isFinite): void {
  if (isMoment(ms)) return
  throw new StorageError(`${ms} ms are no moment that this database holds; nothing was written`, {
    transient: false,
    refused: true,
  })
}

function given(when: When): number {
  return 'at' in when ? when.at : when.inMs
}
