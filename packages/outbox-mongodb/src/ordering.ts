import { keyYielded, type NewEvent, type Outcome, type OutcomeResult, type Settlement } from 'outbox-core'
import { findAll, type MongoCollection } from './client.ts'
import type { Keys } from './keys.ts'
import { completionsBehind, type Turn, takeOperations } from './operations.ts'
import { BY_ID, type EventDocument } from './schema.ts'

/** What a write means for the order of the keys that it has to do with. */
export class Ordering {
  readonly #events: MongoCollection
  readonly #keys: Keys

  constructor(events: MongoCollection, keys: Keys) {
    this.#events = events
    this.#keys = keys
  }

  /** Completes what was handled under the leases of those before it, which hold still. */
  async completeBehind(settles: readonly Settlement[], options: object): Promise<void> {
    const byId = { ...options, ...BY_ID }
    for (const { filter, update } of completionsBehind(settles)) {
      await (update ? this.#events.updateMany(filter, update, byId) : this.#events.deleteMany(filter, byId))
    }
  }

  /** The places in their keys of those events that others are to take, by id. */
  async placesToTake(outcomes: readonly Outcome[], options: object): Promise<ReadonlyMap<string, number>> {
    const ids = outcomes.filter(isReplaced).flatMap(({ settle }) => settle?.id ?? [])
    if (ids.length === 0) return new Map()
    const found = await findAll<EventDocument>(this.#events, { _id: { $in: ids } }, ids.length, {
      ...options,
      ...BY_ID,
      projection: { place: 1 },
    })
    return new Map(found.flatMap(({ _id, place }) => (place === undefined ? [] : [[_id, place] as const])))
  }

  /** The places of what is appended to keys. */
  async turns(
    outcomes: readonly Outcome[],
    places: ReadonlyMap<string, number>,
    options: object,
  ): Promise<ReadonlyMap<NewEvent, Turn>> {
    const atTheEnd: NewEvent[] = []
    const inPlace: [NewEvent, Turn][] = []
    for (const { settle, append } of outcomes) {
      const place = settle && places.get(settle.id)
      const keyed = append.filter(isKeyed)
      const those = place === undefined ? [] : keyed.filter((event) => event.inPlace)
      atTheEnd.push(...keyed.filter((event) => !those.includes(event)))
      // Nothing is before the one that they follow, so that there is room.
      for (const [n, event] of those.entries()) {
        inPlace.push([event, { place: (place ?? 0) - those.length + 1 + n, blocked: n > 0 }])
      }
    }
    const taken = new Set(inPlace.map(([{ key }]) => key))
    return new Map([...(await this.#keys.turns(atTheEnd, taken, options)), ...inPlace])
  }

  /** One that was there already is before nothing that was appended with it. */
  async unblockBehind(
    known: readonly NewEvent[],
    turns: ReadonlyMap<NewEvent, Turn>,
    options: object,
  ): Promise<void> {
    const first = known.filter((event) => turns.get(event)?.blocked === false)
    const keys = new Set(first.flatMap(({ key }) => key ?? []))
    if (keys.size > 0) await this.#keys.unblockFirsts([...keys], options)
  }

  /** Lets the keys go on whose first event has given up its place to no other. */
  async goOn(outcomes: readonly Outcome[], results: OutcomeResult[], options: object): Promise<void> {
    const yielded = new Map<string, number>()
    for (const [index, outcome] of outcomes.entries()) {
      const key = isApplied(results, index) && !isReplaced(outcome) && keyYielded(outcome.settle)
      if (typeof key === 'string') yielded.set(key, index)
    }
    const extended = new Set(outcomes.flatMap(({ append }) => append.flatMap(({ key }) => key ?? [])))
    const [only, ...others] = yielded.keys()
    if (only === undefined) return
    const alone = others.length === 0 && !extended.has(only)
    const going = alone
      ? new Set((await this.#keys.unblockNext(only, options)) ? [only] : [])
      : await this.#keys.unblockFirsts([...yielded.keys()], options)
    for (const [key, index] of yielded) {
      if (!going.has(key)) results[index] = { status: 'applied', unsure: true }
    }
    const settles = [...yielded.values()].flatMap((index) => outcomes[index]?.settle ?? [])
    for (const { filter, update } of takeOperations(settles)) {
      await this.#events.updateMany(filter, update, { ...options, ...BY_ID })
    }
  }
}

/** Whether others take the place of the settled event. */
function isReplaced(outcome: Outcome): boolean {
  return keyYielded(outcome.settle) !== undefined && outcome.append.some(({ inPlace }) => inPlace)
}

function isKeyed({ key }: NewEvent): boolean {
  return key !== null
}

/** Whether more than its own event depends on an outcome. */
export function changesKeys(outcome: Outcome): boolean {
  return keyYielded(outcome.settle) !== undefined || outcome.append.some(isKeyed)
}

export function isApplied(results: readonly OutcomeResult[], index: number): boolean {
  return results[index]?.status === 'applied'
}
