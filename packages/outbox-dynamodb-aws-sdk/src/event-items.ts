import { crc32 } from 'node:zlib'
import {
  type Change,
  type Clock,
  changeBy,
  EventTooLargeError,
  type NewEvent,
  type Settlement,
  type StoredEvent,
} from 'outbox-core'
import { ITEM_BYTES, itemBytes } from './item-size.ts'
import type { Layout } from './layout.ts'
import { moment, momentOf } from './moments.ts'
import type { Tables } from './schema.ts'
import type { TransactItem } from './transact-item.ts'

type Put = NonNullable<TransactItem['Put']>
type Delete = NonNullable<TransactItem['Delete']>

/**
 * An event's item. `due_shard` is there while it is waiting or leased, `closed` once it is done or dead: `dead`, or
 * `done-` and its shard. `address` is there where it is not the type, `key` and `place` while it has a place in a key.
 */
export interface EventItem {
  readonly id: string
  readonly type: string
  readonly address?: string
  readonly key?: string
  readonly place?: number
  readonly body: string
  readonly headers: string
  readonly fingerprint?: string
  readonly created: number
  readonly visible: number
  readonly attempt: number
  readonly uncounted: number
  readonly state: 'waiting' | 'leased' | 'done' | 'dead' | 'blocked'
  readonly due_shard?: string
  readonly closed?: string
  readonly closed_at?: number
  readonly error?: string
  /** Of the request that leased it last, and of the one that settled it last without being part of a transaction. */
  readonly lease_mark?: string
  readonly settle_mark?: string
}

/** What of a stored event its settlement may depend on. */
export type StoredPart = Pick<EventItem, 'type' | 'address' | 'key' | 'place'>

/** Where an event goes in its key. */
export interface Place {
  readonly place: number
  readonly blocked: boolean
}

// What settling adds to an event's item: the reason why it was retried or buried, above all.
const SETTLING_BYTES = 4096

/** What an update sets and removes beside state and error. */
interface Update {
  readonly set: string
  readonly remove: readonly string[]
  readonly parameters: Readonly<Record<string, unknown>>
}

/** Makes items of events, and changes of them of settlements. */
export class EventItems {
  readonly #table: string
  readonly #layout: Layout
  readonly #clock: Clock

  constructor(tables: Tables, layout: Layout, clock: Clock) {
    this.#table = tables.events
    this.#layout = layout
    this.#clock = clock
  }

  /** Appends an event unless its id is taken; a refusal says what is there. @throws EventTooLargeError, StorageError */
  append(event: NewEvent, at?: Place): Put {
    const { id, type, address, key, body, headers, fingerprint } = event
    const due_shard = this.dueIn(address, id)
    const leased = event.leased && !at?.blocked
    const item: EventItem = {
      ...{ id, type, body, headers: JSON.stringify(headers) },
      ...(address !== type && { address }),
      ...(key !== null && { key, place: at?.place ?? 0 }),
      ...{ created: this.#clock.now(), visible: momentOf(event.due, this.#clock) },
      ...{ attempt: leased ? 1 : 0, uncounted: 0 },
      state: at?.blocked ? 'blocked' : leased ? 'leased' : 'waiting',
      ...(!at?.blocked && { due_shard }),
      ...(fingerprint !== null && { fingerprint }),
    }
    const [limit, bytes] = [ITEM_BYTES - SETTLING_BYTES, itemBytes({ ...item, due_shard })]
    if (bytes > limit) throw new EventTooLargeError(type, limit, bytes)
    return {
      TableName: this.#table,
      Item: item,
      ConditionExpression: 'attribute_not_exists(id)',
      ReturnValuesOnConditionCheckFailure: 'ALL_OLD',
    }
  }

  /**
   * Deletes or changes an event that is held with exactly this attempt number; leaves the mark in what it changes, and says
   * what is there when it can't.
   *
   * @throws StorageError
   */
  settleAlone(settle: Settlement, mark: string, stored?: StoredPart): TransactItem {
    const { Update, Delete } = this.settle(settle, stored)
    const refusal = { ReturnValuesOnConditionCheckFailure: 'ALL_OLD' } as const
    if (!Update) return { Delete: { ...(Delete as Delete), ...refusal } }
    return {
      Update: {
        ...Update,
        ...refusal,
        UpdateExpression: Update.UpdateExpression?.replace(/^SET /, 'SET settle_mark = :mark, '),
        ExpressionAttributeValues: { ...Update.ExpressionAttributeValues, ':mark': mark },
      },
    }
  }

  /**
   * The same in a transaction.
   *
   * @param stored the event, where `needsStored`
   * @throws StorageError
   */
  settle(settle: Settlement, stored?: StoredPart): TransactItem {
    const change = changeBy(settle)
    const leaves = change.yields && stored?.key !== undefined
    const held = {
      TableName: this.#table,
      Key: { id: settle.id },
      ConditionExpression: `#state = :needed AND attempt = :attempt${leaves ? ' AND #key = :key AND place = :place' : ''}`,
      ExpressionAttributeNames: { '#state': 'state', ...(leaves && { '#key': 'key' }) },
    }
    const values = {
      ...{ ':needed': change.from, ':attempt': settle.attempt },
      ...(leaves && { ':key': stored.key, ':place': stored.place }),
    }
    if (change.to === 'deleted') return { Delete: { ...held, ExpressionAttributeValues: values } }
    const { set, remove, parameters } =
      change.to === 'waiting' ? this.#reopening(settle.id, change, stored) : this.#closing(settle.id, change)
    const removed = leaves ? [...remove, '#key', 'place'] : remove
    const fails = change.error !== null
    const removal = removed.length > 0 ? ` REMOVE ${removed.join(', ')}` : ''
    return {
      Update: {
        ...held,
        UpdateExpression: `SET #state = :state, ${set}${fails ? ', #error = :error' : ''}${removal}`,
        ExpressionAttributeNames: { ...held.ExpressionAttributeNames, ...(fails && { '#error': 'error' }) },
        ExpressionAttributeValues: {
          ...{ ...values, ':state': change.to, ...parameters },
          ...(fails && { ':error': change.error }),
        },
      },
    }
  }

  /** Completes a blocked event with the first of its key. @throws StorageError */
  completeBlocked(id: string, key: string, place: number, change: Change): TransactItem {
    const held = {
      TableName: this.#table,
      Key: { id },
      ConditionExpression: '#state = :blocked AND #key = :key AND place = :place',
      ExpressionAttributeNames: { '#state': 'state', '#key': 'key' },
    }
    const values = { ':blocked': 'blocked', ':key': key, ':place': place }
    if (change.to === 'deleted') return { Delete: { ...held, ExpressionAttributeValues: values } }
    const { set, parameters } = this.#closing(id, change)
    return {
      Update: {
        ...held,
        UpdateExpression: `SET #state = :state, ${set} REMOVE #key, place`,
        ExpressionAttributeValues: { ...values, ...parameters, ':state': change.to },
      },
    }
  }

  /** Of its address, the partition of the index of what is due that an event is in while it is open. */
  dueIn(address: string, id: string): string {
    return dueIn(address, this.shard(id))
  }

  shard(id: string): string {
    return String(crc32(id) % this.#layout.spread)
  }

  /** Back into the index of what is due, where it is not in it any more. */
  #reopening(id: string, { from, inMs, pardon }: Change, stored: StoredPart | undefined): Update {
    const visible = moment(this.#clock.now() + inMs)
    if (from === 'leased') {
      const set = 'visible = :visible, uncounted = uncounted + :pardoned'
      return { set, remove: [], parameters: { ':visible': visible, ':pardoned': pardon === 'one' ? 1 : 0 } }
    }
    return {
      set: 'visible = :visible, due_shard = :shard, uncounted = attempt',
      remove: ['closed', 'closed_at'],
      parameters: { ':visible': visible, ':shard': this.dueIn(stored ? addressOf(stored) : '', id) },
    }
  }

  /** Out of that index, and into the one of dead letters or of what waits for the end of its retention. */
  #closing(id: string, { to, inMs }: Change): Update {
    const closed = to === 'dead' ? 'dead' : doneIn(this.shard(id))
    return {
      set: 'closed = :closed, closed_at = :at',
      remove: ['due_shard'],
      parameters: { ':closed': closed, ':at': moment(this.#clock.now() + inMs) },
    }
  }
}

/** Whether what a settlement makes of its event depends on what is stored of it. */
export function needsStored(settle: Settlement): boolean {
  const { from, to, yields } = changeBy(settle)
  return (yields && settle.key != null) || (from === 'dead' && to === 'waiting')
}

/** A partition of the index of what is due. */
export function dueIn(address: string, shard: string): string {
  return `${address}#${shard}`
}

/** Where completed events are found that wait for the end of their retention. */
export function doneIn(shard: string): string {
  return `done-${shard}`
}

/** Where what is blocked is counted. */
export function blockedIn(shard: string): string {
  return `blocked-${shard}`
}

export function addressOf({ address, type }: Pick<EventItem, 'address' | 'type'>): string {
  return address ?? type
}

export function storedEvent(item: EventItem): StoredEvent {
  const { id, type, key = null, body, headers, created, attempt, uncounted } = item
  return {
    ...{ id, type, address: addressOf(item), key, body, headers: JSON.parse(headers) },
    ...{ createdAt: created, attempt, uncounted },
  }
}
