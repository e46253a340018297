import type { Clock, NewEvent } from 'outbox-core'
import { itemsOf } from './batch.ts'
import type { DocumentClient } from './client.ts'
import { blockedIn, type EventItem, type EventItems, type Place } from './event-items.ts'
import { moment, momentOf } from './moments.ts'
import { parallel } from './parallel.ts'
import { readItem } from './read-item.ts'
import type { Tables } from './schema.ts'
import type { TransactItem } from './transact-item.ts'
import { type Leaving, lastOf, type Settled, type Turn, turnsOf } from './turns.ts'

/** A key's item, there while an event has a place in it. No event's id has a space. */
interface KeyItem {
  readonly id: string
  readonly last_place: number
}

/**
 * Which event is blocked at a place of a key. An item of its own, so that whoever settles the one before finds it without
 * an index, and so that writing it costs nothing for the size of an event.
 */
export interface BlockedItem {
  readonly id: string
  readonly event: string
  readonly visible: number
  readonly due_in: string
  /** For counting them. */
  readonly closed: string
  readonly closed_at: number
}

/** What is stored of a key as far as a turn depends on it. */
interface Found {
  /** Undefined for an empty key. */
  readonly last?: number | undefined
  /** What is blocked behind the one that leaves. */
  readonly next?: BlockedItem | undefined
}

/** What a transaction does in keys, and what is stored of them. */
export type Turns = readonly (Turn & Found)[]

/** What that comes to: where its events go, and the items beside theirs. */
export interface Order {
  readonly places: ReadonlyMap<string, Place>
  readonly items: readonly TransactItem[]
}

/**
 * Keeps the order of the events of a key. They have consecutive places, the first of which is the one that may be taken.
 * Whatever changes something is on the condition that what was read is still so: who comes too late reads again.
 */
export class Keys {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #items: EventItems
  readonly #clock: Clock

  constructor(client: DocumentClient, tables: Tables, items: EventItems, clock: Clock) {
    this.#client = client
    this.#table = tables.events
    this.#items = items
    this.#clock = clock
  }

  /** Reads what the order depends on; nothing where no event has a key. */
  async read(settled: readonly Settled[], events: readonly NewEvent[]): Promise<Turns> {
    return parallel(turnsOf(settled, events), async (turn) => ({ ...turn, ...(await this.#found(turn)) }))
  }

  /** How many wait behind events that are the first of their keys, by their ids. */
  async behind(events: readonly EventItem[]): Promise<ReadonlyMap<string, number>> {
    const keyed = events.flatMap(({ id, key, place }) =>
      key === undefined || place === undefined ? [] : [{ id, key, place }],
    )
    const ids = keyed.map(({ key }) => keyId(key))
    const found = await itemsOf<KeyItem>(this.#client, this.#table, ids)
    const last = new Map(found.map(({ id, last_place }) => [id, last_place]))
    return new Map(
      keyed.map(({ id, key, place }) => [id, Math.max(0, (last.get(keyId(key)) ?? place) - place)]),
    )
  }

  /** @throws StorageError */
  order(turns: Turns): Order {
    const places = new Map<string, Place>()
    const items: TransactItem[] = []
    for (const turn of turns) this.#take(turn, places, items)
    return { places, items }
  }

  async #last(key: string): Promise<number | undefined> {
    return (await readItem<KeyItem>(this.#client, this.#table, keyId(key)))?.last_place
  }

  async #found({ key, leaving, inPlace, append }: Turn): Promise<Found> {
    if (!leaving || inPlace.length > 0) return append.length > 0 ? { last: await this.#last(key) } : {}
    // Nothing behind it is as much as to say that it is the last, which the transaction asks.
    const end = lastOf(leaving)
    const last = append.length > 0 ? await this.#last(key) : end
    if (last === end && append.length > 0) return { last }
    return {
      last,
      next: await readItem<BlockedItem>(this.#client, this.#table, placeId(key, end + 1)),
    }
  }

  #take(
    { key, leaving, inPlace, append, last, next }: Turn & Found,
    places: Map<string, Place>,
    items: TransactItem[],
  ): void {
    const put = (event: NewEvent, place: number, blocked: boolean): void => {
      places.set(event.id, { place, blocked })
      if (blocked) items.push(this.#block(key, event, place))
    }
    if (leaving) {
      const first = leaving.place - inPlace.length + 1
      for (const [index, event] of inPlace.entries()) put(event, first + index, index > 0)
    }
    if (leaving) items.push(...this.#completeAlso(leaving))
    if (leaving && next) items.push(...this.#unblock(leaving, next))
    const emptied = leaving && inPlace.length === 0 && !next ? lastOf(leaving) : undefined
    const end = emptied ?? last
    const isOpen = emptied !== undefined || last === undefined
    for (const [index, event] of append.entries()) put(event, (end ?? 0) + 1 + index, !isOpen || index > 0)
    if (append.length > 0) items.push(this.#extend(key, end, (end ?? 0) + append.length))
    else if (emptied !== undefined) items.push(this.#remove(key, emptied))
  }

  #block(key: string, { id, address, due }: NewEvent, place: number): TransactItem {
    const Item: BlockedItem = {
      ...{ id: placeId(key, place), event: id, visible: momentOf(due, this.#clock) },
      due_in: this.#items.dueIn(address, id),
      ...{ closed: blockedIn(this.#items.shard(id)), closed_at: this.#clock.now() },
    }
    return { Put: { TableName: this.#table, Item } }
  }

  #completeAlso({ key, place, also, change }: Leaving): TransactItem[] {
    return also.flatMap((id, index) => [
      this.#free(key, place + 1 + index),
      this.#items.completeBlocked(id, key, place + 1 + index, change),
    ])
  }

  #unblock(leaving: Leaving, { event, visible, due_in }: BlockedItem): TransactItem[] {
    const leaseMs = leaving.take?.id === event ? leaving.take.leaseMs : undefined
    const now = this.#clock.now()
    const isLeased = leaseMs !== undefined
    return [
      this.#free(leaving.key, lastOf(leaving) + 1),
      {
        Update: {
          ...{ TableName: this.#table, Key: { id: event } },
          UpdateExpression: `SET #state = :state, visible = :visible, due_shard = :shard${isLeased ? ', attempt = attempt + :one' : ''}`,
          ConditionExpression: '#state = :blocked',
          ExpressionAttributeNames: { '#state': 'state' },
          ExpressionAttributeValues: {
            ...{ ':state': isLeased ? 'leased' : 'waiting', ':blocked': 'blocked', ':shard': due_in },
            ':visible': moment(isLeased ? now + leaseMs : Math.max(visible, now)),
            ...(isLeased && { ':one': 1 }),
          },
        },
      },
    ]
  }

  /** Nothing is blocked at that place any more. */
  #free(key: string, place: number): TransactItem {
    return {
      Delete: {
        ...{ TableName: this.#table, Key: { id: placeId(key, place) } },
        ConditionExpression: 'attribute_exists(id)',
      },
    }
  }

  #extend(key: string, from: number | undefined, to: number): TransactItem {
    const Key = { id: keyId(key) }
    if (from === undefined) {
      const Item: KeyItem = { ...Key, last_place: to }
      return { Put: { TableName: this.#table, Item, ConditionExpression: 'attribute_not_exists(id)' } }
    }
    return {
      Update: {
        ...{ TableName: this.#table, Key, UpdateExpression: 'SET last_place = :to' },
        ...{
          ConditionExpression: 'last_place = :from',
          ExpressionAttributeValues: { ':from': from, ':to': to },
        },
      },
    }
  }

  #remove(key: string, last: number): TransactItem {
    return {
      Delete: {
        ...{ TableName: this.#table, Key: { id: keyId(key) } },
        ...{ ConditionExpression: 'last_place = :last', ExpressionAttributeValues: { ':last': last } },
      },
    }
  }
}

function keyId(key: string): string {
  return `outbox key ${key}`
}

export function placeId(key: string, place: number): string {
  return `outbox place ${place} ${key}`
}
