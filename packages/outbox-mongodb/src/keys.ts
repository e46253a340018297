import type { NewEvent } from 'outbox-core'
import { aggregated, findAll, type MongoCollection } from './client.ts'
import { type Turn, UNBLOCK } from './operations.ts'
import { BY_ID, BY_KEY, type EventDocument } from './schema.ts'

/** The first event that has a place in a key. */
export interface First {
  readonly key: string
  readonly id: string
  readonly state: EventDocument['state']
}

/** A key's document: whoever writes into the key changes it, so that two who do can't both commit. */
interface KeyDocument {
  readonly _id: string
  /** The last place that was given away. */
  readonly last: number
}

/** The order of events within their keys. */
export class Keys {
  readonly #events: MongoCollection
  readonly #keys: MongoCollection

  constructor(events: MongoCollection, keys: MongoCollection) {
    this.#events = events
    this.#keys = keys
  }

  /**
   * Places at the ends of their keys, which are held from others until the transaction ends.
   *
   * @param taken keys in which another event is about to be the first
   */
  async turns(
    events: readonly NewEvent[],
    taken: ReadonlySet<string | null>,
    options: object,
  ): Promise<ReadonlyMap<NewEvent, Turn>> {
    const byKey = Map.groupBy(events, ({ key }) => key as string)
    const turns = new Map<NewEvent, Turn>()
    if (byKey.size === 0) return turns
    const ends = await this.#extend(byKey, options)
    const occupied = new Set((await this.firsts([...byKey.keys()], options)).map(({ key }) => key))
    for (const [key, group] of byKey) {
      const before = (ends.get(key) ?? 0) - group.length
      for (const [n, event] of group.entries()) {
        turns.set(event, { place: before + n + 1, blocked: n > 0 || taken.has(key) || occupied.has(key) })
      }
    }
    return turns
  }

  /** Of each key the first event, where there is one. */
  async firsts(keys: readonly string[], options: object): Promise<readonly First[]> {
    const first = { id: { $first: '$_id' }, state: { $first: '$state' } }
    const pipeline = [
      { $match: { key: { $in: keys } } },
      { $sort: { key: 1, place: 1 } },
      { $group: { _id: '$key', ...first } },
      { $project: { _id: 0, key: '$_id', id: 1, state: 1 } },
    ]
    return aggregated<First>(this.#events, pipeline, keys.length, { ...options, ...BY_KEY })
  }

  /** Of each key the events that wait in it, from the next one on, at most so many. */
  async behind(
    keys: readonly string[],
    most: number,
  ): Promise<ReadonlyMap<string, readonly EventDocument[]>> {
    const [first = [], ...others] = keys.map((key) => [
      { $match: { key, state: 'blocked' } },
      { $sort: { key: 1, place: 1 } },
      { $limit: most },
    ])
    const coll = this.#events.collectionName
    const pipeline = [...first, ...others.map((branch) => ({ $unionWith: { coll, pipeline: branch } }))]
    const found = await aggregated<EventDocument>(this.#events, pipeline, keys.length * most, BY_KEY)
    return Map.groupBy(found, ({ key }) => String(key))
  }

  /**
   * Lets the first event of each key be taken, where that is blocked.
   *
   * @returns the keys that have an event
   */
  async unblockFirsts(keys: readonly string[], options: object): Promise<ReadonlySet<string>> {
    const firsts = await this.firsts(keys, options)
    await this.unblock(firsts, options)
    return new Set(firsts.map(({ key }) => key))
  }

  /** The same for a key in which all are blocked, by one command. */
  async unblockNext(key: string, options: object): Promise<boolean> {
    const first = { ...options, ...BY_KEY, sort: { key: 1, place: 1 }, projection: { _id: 1 } }
    return (await this.#events.findOneAndUpdate({ key, state: 'blocked' }, UNBLOCK, first)) !== null
  }

  /** Lets those of them be taken that are blocked; returns how many. */
  async unblock(firsts: readonly First[], options: object): Promise<number> {
    const ids = firsts.filter(({ state }) => state === 'blocked').map(({ id }) => id)
    if (ids.length === 0) return 0
    const filter = { _id: { $in: ids }, state: 'blocked' }
    return (await this.#events.updateMany(filter, UNBLOCK, { ...options, ...BY_ID })).matchedCount
  }

  /** Forgets keys that have no event; in a transaction, which fails when another one writes in them. */
  async forget(keys: readonly string[], options: object): Promise<void> {
    const documents = { _id: { $in: keys } }
    const byId = { ...options, ...BY_ID }
    const { deletedCount } = await this.#keys.deleteMany(documents, byId)
    if (deletedCount === keys.length) return
    // What an open transaction has inserted is not there to be deleted: only who inserts it as well meets that.
    await this.#keys.bulkWrite(keys.map((key) => endOf(key, 0)) as never[], options)
    await this.#keys.deleteMany(documents, byId)
  }

  /** Some of the keys that are known, in their order. */
  async known(after: string | undefined, most: number): Promise<readonly string[]> {
    const filter = after === undefined ? {} : { _id: { $gt: after } }
    const options = { ...BY_ID, sort: { _id: 1 }, limit: most, projection: { _id: 1 } }
    return (await findAll<KeyDocument>(this.#keys, filter, most, options)).map(({ _id }) => _id)
  }

  /** Moves the ends of keys by what is appended to each; in one order, whoever does it. */
  async #extend(
    byKey: ReadonlyMap<string, readonly NewEvent[]>,
    options: object,
  ): Promise<ReadonlyMap<string, number>> {
    const updates = [...byKey].sort(([one], [other]) => (one < other ? -1 : 1))
    const operations = updates.map(([key, { length }]) => endOf(key, length))
    const [first] = operations
    if (first && operations.length === 1) {
      const { filter, update } = first.updateOne
      const after = { ...options, upsert: true, returnDocument: 'after' }
      const { _id, last } = (await this.#keys.findOneAndUpdate(filter, update, after)) as KeyDocument
      return new Map([[_id, last]])
    }
    await this.#keys.bulkWrite(operations as never[], options)
    const documents = { _id: { $in: [...byKey.keys()] } }
    const found = await findAll<KeyDocument>(this.#keys, documents, byKey.size, { ...options, ...BY_ID })
    return new Map(found.map(({ _id, last }) => [_id, last]))
  }
}

function endOf(key: string, by: number) {
  return { updateOne: { filter: { _id: key }, update: { $inc: { last: by } }, upsert: true } }
}
