import { assertMoment, assertMoments, changeBy, type Outcome, StorageError } from 'outbox-core'

/** A document has at most 16 MiB; the rest of it needs room as well. */
export const LIMIT_BYTES: number = 16 * 1024 * 1024 - 64 * 1024

// Less than the 8.64e15 at which JavaScript's dates end, by more than the time that has passed since their beginning.
const FURTHEST_MS = 8e15

/**
 * Before the first statement: in a transaction of the user, what the driver refuses halfway would leave the first half.
 *
 * @throws StorageError with the event to blame
 */
export function assertStorable(outcomes: readonly Outcome[]): void {
  assertMoments(outcomes, isDate)
  for (const { settle, append, put } of outcomes) {
    for (const { body } of append) assertSize(Buffer.byteLength(body))
    for (const { data } of put) assertSize(data.byteLength)
    if (settle?.kind === 'complete' && settle.take) assertMs(settle.take.leaseMs)
    if (settle) assertSize(Buffer.byteLength(changeBy(settle).error ?? ''))
  }
}

/**
 * The driver turns a date that is none into the beginning of 1970, and the server computes dates that no JavaScript reads.
 *
 * @throws StorageError with the event to blame
 */
export function assertMs(ms: number): void {
  assertMoment(ms, isDate)
}

function isDate(ms: number): boolean {
  return Number.isFinite(ms) && Math.abs(ms) <= FURTHEST_MS
}

function assertSize(bytes: number): void {
  if (bytes <= LIMIT_BYTES) return
  throw new StorageError(`a document of ${bytes} bytes is larger than MongoDB's; nothing was written`, {
    transient: false,
    refused: true,
  })
}
