import type { DeadEvent, LeasedEvent, OutcomeResult, StorageStats, StoredEvent, Waiting } from 'outbox-core'

export const APPLIED: OutcomeResult = { status: 'applied' }
export const LOST: OutcomeResult = { status: 'lost' }

/** What the write script says of one outcome. */
export function outcomeResult(reply: string): OutcomeResult {
  if (reply === 'applied') return APPLIED
  if (reply === 'lost') return LOST
  return { status: 'duplicate', fingerprint: reply.slice('duplicate '.length) || null }
}

/** What the lease script says. */
export function leasedEvents(fields: readonly string[]): LeasedEvent[] {
  const leasedAt = Number(fields[0])
  const events: (LeasedEvent & { behind?: StoredEvent[] })[] = []
  for (let at = 1; at < fields.length; at += 9) {
    const first = events.at(-1)
    const event = storedEvent(fields, at)
    if (!fields[at + 5]?.startsWith('+') || !first) events.push({ ...event, leasedAt })
    else if (first.behind) first.behind.push(event)
    else first.behind = [event]
  }
  return events
}

/** What the script for dead letters says of them. */
export function deadEvents(fields: readonly string[]): DeadEvent[] {
  return rows(fields, 12).map((row) => ({
    ...storedEvent(row),
    error: row[9] ?? '',
    diedAt: Number(row[10]),
    waitingBehind: Number(row[11]),
  }))
}

/** What the script that looks for addresses says. */
export function waitingAddresses(fields: readonly string[]): Waiting[] {
  return rows(fields, 2).map(([address = '', ms]) => ({ address, oldestDueMs: Number(ms) }))
}

/** What the script that counts says. */
export function storageStats(reply: readonly (number | string)[]): StorageStats {
  const [due, leased, dead, blocked, oldest, ...counts] = reply.map(String)
  return {
    due: Number(due),
    dueByAddress: Object.fromEntries(rows(counts, 2).map(([address, count]) => [address, Number(count)])),
    leased: Number(leased),
    dead: Number(dead),
    blocked: Number(blocked),
    oldestDueMs: oldest === '' ? null : Number(oldest),
  }
}

function storedEvent(fields: readonly string[], at = 0): StoredEvent {
  const type = fields[at + 1] ?? ''
  return {
    id: fields[at] ?? '',
    type,
    address: fields[at + 7] || type,
    key: fields[at + 8] || null,
    body: fields[at + 2] ?? '',
    headers: JSON.parse(fields[at + 3] ?? '{}'),
    createdAt: Number(fields[at + 4]),
    attempt: Number(fields[at + 5]),
    uncounted: Number(fields[at + 6]),
  }
}

function rows(fields: readonly string[], size: number): string[][] {
  return Array.from({ length: fields.length / size }, (_, index) =>
    fields.slice(index * size, (index + 1) * size),
  )
}
