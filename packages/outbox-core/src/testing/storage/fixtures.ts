import { expect } from 'vitest'
import type { Lease, NewEvent, Outcome, PayloadRecord, Settlement } from '../../storage.ts'
import type { Place, RawEvent } from '../backend.ts'
import { appending, newEvent, settling, takeDue, text } from '../harness.ts'

export const LEASE_MS = 60_000
export const FAR = { inMs: 3_600_000 } as const

export type State = RawEvent['state']
export type SettlementKind = 'complete' | 'keep' | 'retry' | 'bury' | 'discard' | 'revive'

/** A settlement that leaves nothing due, except by reviving. */
export function settlement(
  kind: SettlementKind,
  { id, attempt, key = null }: Lease & { readonly key?: string | null },
): Settlement {
  const lease = { id, attempt, key }
  switch (kind) {
    case 'complete':
      return { kind, ...lease, keepMs: 0 }
    case 'keep':
      return { kind: 'complete', ...lease, keepMs: 3_600_000 }
    case 'retry':
      return { kind, ...lease, delayMs: 3_600_000, error: 'later', counted: true }
    case 'bury':
      return { kind, ...lease, error: 'because' }
    default:
      return { kind, ...lease }
  }
}

export function putting(...put: PayloadRecord[]): Outcome {
  return { append: [], put, remove: [] }
}

export function removing(...remove: string[]): Outcome {
  return { append: [], put: [], remove }
}

/** Appends an event and leases it; nothing else may be due. */
export async function leased<Tx, O>(place: Place<Tx, O>, changes: Partial<NewEvent> = {}): Promise<Lease> {
  const { storage } = place.outbox
  const event = newEvent(changes)
  await storage.write([appending(event)])
  const taken = await takeDue(storage, 1, LEASE_MS)
  expect(taken.map(({ id }) => id)).toEqual([event.id])
  return { id: event.id, attempt: taken[0]?.attempt ?? 0 }
}

/** A lease that has run out and the one that followed it, of one event; nothing else may be due. */
export async function leasedTwice<Tx, O>(place: Place<Tx, O>): Promise<{ older: Lease; newer: Lease }> {
  const older = await leased(place)
  await place.expireLeases()
  const [newer = older] = await takeDue(place.outbox.storage, 1, LEASE_MS)
  expect(newer).toMatchObject({ id: older.id, attempt: older.attempt + 1 })
  return { older, newer }
}

/** Brings an event that has been leased once into a state; nothing else may be due. */
export async function inState<Tx, O>(
  place: Place<Tx, O>,
  state: State,
  changes: Partial<NewEvent> = {},
): Promise<Lease> {
  const lease = await leased(place, changes)
  const kind = (
    { waiting: 'retry', done: 'keep', dead: 'bury', leased: undefined, blocked: undefined } as const
  )[state]
  if (kind) {
    const results = await place.outbox.storage.write([settling(settlement(kind, lease))])
    expect(results).toEqual([{ status: 'applied' }])
  }
  return lease
}

export async function rawEvent<Tx, O>(place: Place<Tx, O>, id: string): Promise<RawEvent | undefined> {
  return (await place.events()).find((event) => event.id === id)
}

export async function eventIds<Tx, O>(place: Place<Tx, O>): Promise<string[]> {
  return (await place.events()).map(({ id }) => id).sort()
}

/** Every stored payload as text, by id. */
export async function payloadTexts<Tx, O>(place: Place<Tx, O>): Promise<Record<string, string | undefined>> {
  return Object.fromEntries((await place.payloads()).map(({ id, data }) => [id, text(data)]))
}

/** Another client of the place where there can be one, else the same. */
export function other<Tx, O>(place: Place<Tx, O>, singleClient = false): Promise<Place<Tx, O>['outbox']> {
  return singleClient ? Promise.resolve(place.outbox) : place.sibling()
}
