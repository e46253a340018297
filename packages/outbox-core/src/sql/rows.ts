import type { LeaseRequest, StoredEvent } from '../storage.ts'

/** A number: drivers, and their users, disagree about what to make of it. */
export type Whole = number | string | bigint

export interface Written {
  readonly settled?: Whole | null
  readonly appended?: string | null
  readonly unsure?: Whole
}

export interface Row {
  readonly id: string
  readonly type: string
  /** Null where it is the type. */
  readonly address: string | null
  readonly key: string | null
  readonly body: string
  readonly headers: string
  readonly attempt: Whole
  readonly uncounted: Whole
  /** Microseconds since the epoch. */
  readonly created: string
}

/** An event that waits behind another one of its key. */
export interface BehindRow extends Row {
  readonly first: string
  /** 0 for false. */
  readonly due: Whole
}

/** By the first of each: as far as they are due and have one of these addresses. */
export function runsBehind(
  rows: readonly BehindRow[],
  addresses: LeaseRequest['addresses'],
): ReadonlyMap<string, readonly StoredEvent[]> {
  const known = new Set(addresses.map(({ address }) => address))
  const runs = new Map<string, StoredEvent[]>()
  const ended = new Set<string>()
  for (const row of rows) {
    const { first, due, address, type } = row
    if (Number(due) === 0 || !known.has(address ?? type)) ended.add(first)
    if (!ended.has(first)) runs.set(first, [...(runs.get(first) ?? []), storedEvent(row)])
  }
  return runs
}

export function numbersOf(rows: readonly Written[]): ReadonlySet<number> {
  return new Set(rows.flatMap(({ settled }) => (settled == null ? [] : [Number(settled)])))
}

export function storedEvent(row: Row): StoredEvent {
  const { id, type, address, key, body, headers, created, attempt, uncounted } = row
  return {
    ...{
      id,
      type,
      address: address ?? type,
      key,
      body,
      headers: JSON.parse(headers),
      createdAt: milliseconds(created),
    },
    ...{ attempt: Number(attempt), uncounted: Number(uncounted) },
  }
}

export function milliseconds(microseconds: string): number {
  return Number(microseconds) / 1000
}
