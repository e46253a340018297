import { keyYielded } from '../settlement.ts'
import type { NewEvent, Outcome, OutcomeResult, SettlementOf } from '../storage.ts'
import { dueInMs, isDueAtOnce } from './event.ts'

/** How soon there is something for a worker to take, in what was written; undefined for nothing. */
export function soonestDueMs(
  outcomes: readonly Outcome[],
  results: readonly OutcomeResult[],
  now: number,
): number | undefined {
  let soonest = Number.POSITIVE_INFINITY
  for (let index = 0; index < outcomes.length; index++) {
    const { settle, append } = outcomes[index] as Outcome
    if (results[index]?.status !== 'applied') continue
    for (const { due, leased } of append) if (!leased) soonest = Math.min(soonest, dueInMs(due, now))
    if (settle?.kind === 'retry' && !isDeferred(settle)) soonest = Math.min(soonest, settle.delayMs)
    if (settle?.kind === 'revive' || keyYielded(settle) !== undefined) soonest = Math.min(soonest, 0)
  }
  return soonest === Number.POSITIVE_INFINITY ? undefined : soonest
}

// Whoever deferred an event can't handle it for now: awake at that very moment, it would always be the first to take it.
function isDeferred(settle: SettlementOf<'retry'>): boolean {
  return !settle.counted && settle.delayMs > 0
}

/** Whether what was written, or the next event of a key, may be for workers of other processes. */
export function isForOthers(outcome: Outcome): boolean {
  return isEmitted(outcome) || keyYielded(outcome.settle) !== undefined
}

/** Keys in which another event may wait that a settlement could not see. */
export function unsureKeys(outcomes: readonly Outcome[], results: readonly OutcomeResult[]): string[] {
  const keys: string[] = []
  for (let index = 0; index < outcomes.length; index++) {
    const key = outcomes[index]?.settle?.key
    const result = results[index]
    if (typeof key === 'string' && result?.status === 'applied' && result.unsure) keys.push(key)
  }
  return keys
}

// What a worker appends it most likely takes itself: only what comes from outside is worth a push to others.
export function isEmitted({ settle, append }: Outcome): boolean {
  return !settle && append.some(isDueAtOnce)
}

/** Keys at the end of which something was or is to be appended. */
export function keysEntered(outcomes: readonly Outcome[]): string[] {
  return outcomes.flatMap(({ append }) => append.flatMap((event) => keyEntered(event) ?? []))
}

/** Whether others may write the same: an id that users chose, or a key. */
export function meetsOthers({ append }: Outcome): boolean {
  return append.some((event) => event.fingerprint !== null || keyEntered(event) !== null)
}

function keyEntered({ key, inPlace }: NewEvent): string | null {
  return inPlace ? null : key
}
