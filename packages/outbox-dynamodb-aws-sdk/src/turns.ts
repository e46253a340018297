import { type Change, changeBy, type NewEvent, type Settlement } from 'outbox-core'
import type { StoredPart } from './event-items.ts'

/** A settlement, with its event as it is stored where that matters. */
export interface Settled {
  readonly settle: Settlement
  readonly stored?: StoredPart | undefined
}

/** Whose place is given up. */
export interface Leaving {
  readonly key: string
  readonly place: number
  readonly change: Change
  /** What is completed with it, right behind. */
  readonly also: readonly string[]
  /** What may be leased by it, behind those. */
  readonly take: { readonly id: string; readonly leaseMs: number } | undefined
}

/** What one transaction does in a key. */
export interface Turn {
  readonly key: string
  /** What gives up its place, which is the first. */
  readonly leaving?: Leaving
  /** What takes that place. */
  readonly inPlace: readonly NewEvent[]
  /** What goes to the end. */
  readonly append: readonly NewEvent[]
}

/** What a transaction of these settlements and events does, by key. */
export function turnsOf(settled: readonly Settled[], events: readonly NewEvent[]): readonly Turn[] {
  const leaving = new Map(settled.flatMap((one) => leavingOf(one)).map((event) => [event.key, event]))
  const keyed = events.filter(({ key }) => key !== null)
  const byKey = Map.groupBy(keyed, ({ key }) => key as string)
  const keys = new Set([...leaving.keys(), ...byKey.keys()])
  return [...keys].toSorted().map((key) => {
    const gone = leaving.get(key)
    const all = byKey.get(key) ?? []
    const inPlace = gone ? all.filter((event) => event.inPlace) : []
    const append = gone ? all.filter((event) => !event.inPlace) : all
    return { key, ...(gone && { leaving: gone }), inPlace, append }
  })
}

/** The place that a settlement gives up, with those right behind it. */
function leavingOf({ settle, stored }: Settled): Leaving[] {
  const { key, place } = stored ?? {}
  const change = changeBy(settle)
  if (key === undefined || place === undefined || !change.yields) return []
  const { also = [], take } = settle.kind === 'complete' ? settle : {}
  return [{ key, place, change, also, take }]
}

/** The last of the places that are given up together. */
export function lastOf({ place, also }: Leaving): number {
  return place + also.length
}
