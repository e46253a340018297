import type { DeadEvent, LeasedEvent, OutcomeResult, StoredEvent } from 'outbox-core'

export const APPLIED: OutcomeResult = { status: 'applied' }
export const LOST: OutcomeResult = { status: 'lost' }

/** What the write script says of one outcome. */
export function outcomeResult(reply: string): OutcomeResult {
  if (reply === 'applied') return APPLIED
  if (reply === 'lost') return LOST
  return { status: 'duplicate', fingerprint: reply.slice('duplicate '.length) || null }
}

/** What the lease script says. */
export function leasedEvents([now, ...fields]: readonly string[]): LeasedEvent[] {
  const leasedAt = Number(now)
  return rows(fields, 7).map((row) => ({ ...storedEvent(row), leasedAt }))
}

/** What the script for dead letters says of them. */
export function deadEvents(fields: readonly string[]): DeadEvent[] {
  return rows(fields, 9).map((row) => ({
    ...storedEvent(row),
    error: row[7] ?? '',
    diedAt: Number(row[8]),
  }))
}

function storedEvent(row: readonly string[]): StoredEvent {
  const [id = '', type = '', body = '', headers = '{}', created, attempt, uncounted] = row
  return {
    id,
    type,
    body,
    headers: JSON.parse(headers),
    createdAt: Number(created),
    attempt: Number(attempt),
    uncounted: Number(uncounted),
  }
}

function rows(fields: readonly string[], size: number): string[][] {
  return Array.from({ length: fields.length / size }, (_, index) =>
    fields.slice(index * size, (index + 1) * size),
  )
}
