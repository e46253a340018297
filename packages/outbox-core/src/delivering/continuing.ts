import { isDueAtOnce } from '../emitting/event.ts'
import type { LeasedEvent, NewEvent, Outcome } from '../storage.ts'

/**
 * What a handler appended is leased to its worker by the write that appends it, instead of by a write of its own: a
 * saga then costs one commit a step. Only what is due at once and handled here.
 */
export function leasingOn(outcome: Outcome, leaseMs: number, takes: (address: string) => boolean): Outcome {
  if (outcome.settle?.kind !== 'complete' || !outcome.append.some(isDueAtOnce)) return outcome
  const due = { inMs: leaseMs }
  const append = outcome.append.map((event) =>
    isDueAtOnce(event) && isFree(event, outcome) && takes(event.address)
      ? { ...event, due, leased: true }
      : event,
  )
  return { ...outcome, append }
}

/** Whether it does not wait behind others of its key. */
function isFree(event: NewEvent, { append }: Outcome): boolean {
  return event.key === null || event === append.find(({ inPlace }) => inPlace)
}

/** The events that an applied outcome leased, as a lease would have brought them. */
export function leasedBy({ append }: Outcome, createdAt: number): LeasedEvent[] {
  return append
    .filter(({ leased }) => leased)
    .map(({ id, type, address, key, body, headers }) => ({
      ...{ id, type, address, key, body, headers },
      createdAt,
      leasedAt: createdAt,
      attempt: 1,
      uncounted: 0,
    }))
}
