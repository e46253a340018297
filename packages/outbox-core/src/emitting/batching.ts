import { StorageError, UnknownOutcomeError } from '../errors.ts'
import type { Outcome } from '../storage.ts'

// Roughly in bytes. Databases refuse or choke on much larger ones, and their protocols end somewhere above.
const LARGEST_WRITE = 16 * 1024 * 1024

/** How many of those who wait, at least one and at most `most`, make up one write of bearable size. */
export function countFitting(waiting: readonly { readonly outcome: Outcome }[], most: number): number {
  const limit = Math.min(waiting.length, most)
  let bytes = 0
  for (let count = 0; count < limit; count++) {
    bytes += size(waiting[count]?.outcome)
    if (bytes > LARGEST_WRITE && count > 0) return count
  }
  return limit
}

/** Whether a write that failed like this says something about the database, not about what was to be written. */
export function isPassing(error: unknown): boolean {
  return (error instanceof StorageError && error.transient) || error instanceof UnknownOutcomeError
}

function size(outcome: Outcome | undefined): number {
  let bytes = 0
  for (const { body } of outcome?.append ?? []) bytes += body.length
  for (const { data } of outcome?.put ?? []) bytes += data.byteLength
  return bytes
}
