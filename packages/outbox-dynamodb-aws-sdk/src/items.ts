import { randomUUID } from 'node:crypto'
import { crc32 } from 'node:zlib'
import {
  type Change,
  type Clock,
  changeBy,
  EventTooLargeError,
  type NewEvent,
  type Outcome,
  type PayloadRecord,
  type Settlement,
  type StoredEvent,
  type When,
} from 'outbox-core'
import { ITEM_BYTES, itemBytes } from './item-size.ts'
import { moment } from './moments.ts'
import type { Tables } from './schema.ts'
import type { TransactItem } from './transact-item.ts'

type Put = NonNullable<TransactItem['Put']>
type Delete = NonNullable<TransactItem['Delete']>

/**
 * An event's item. `due_shard` is there while it is waiting or leased, `closed` once it is done or dead: `dead`, or
 * `done-` and its shard.
 */
export interface EventItem {
  readonly id: string
  readonly type: string
  readonly body: string
  readonly headers: string
  readonly fingerprint?: string
  readonly created: number
  readonly visible: number
  readonly attempt: number
  readonly uncounted: number
  readonly state: 'waiting' | 'leased' | 'done' | 'dead'
  readonly due_shard?: string
  readonly closed?: string
  readonly closed_at?: number
  readonly error?: string
  /** Of the request that leased it last, and of the one that settled it last without being part of a transaction. */
  readonly lease_mark?: string
  readonly settle_mark?: string
}

/** A payload's item, or one part of it. Each put has its own token, so that parts of two puts never mix. */
export interface PayloadItem {
  readonly id: string
  readonly data: Uint8Array | null
  readonly parts: number
  readonly token: string
  /** Seconds, rounded up: what DynamoDB's time to live reads. */
  readonly expires_at: number
  readonly expires_ms: number
}

const LAST_MOMENT = 8_639_999_999_999_999
const LARGEST_PART: PayloadItem = {
  ...{ id: `${'x'.repeat(128)}#10`, data: new Uint8Array(), parts: 10, token: randomUUID() },
  ...{ expires_at: Math.ceil(LAST_MOMENT / 1000), expires_ms: LAST_MOMENT },
}

/** How many of a payload's bytes an item takes beside all else. */
export const PART_BYTES: number = ITEM_BYTES - itemBytes({ ...LARGEST_PART })

// What settling adds to an event's item: the reason why it was retried or buried, above all.
const SETTLING_BYTES = 4096

/** What an update sets and removes beside state and error. */
interface Update {
  readonly set: string
  readonly remove: string
  readonly parameters: Readonly<Record<string, unknown>>
}

/** Makes items of what the outbox writes. */
export class Items {
  readonly #tables: Tables
  readonly #clock: Clock

  constructor(tables: Tables, clock: Clock) {
    this.#tables = tables
    this.#clock = clock
  }

  /** Appends an event unless its id is taken; a refusal says what is there. @throws EventTooLargeError, StorageError */
  append({ id, type, body, headers, due, leased, fingerprint }: NewEvent): Put {
    const item: EventItem = {
      ...{
        id,
        type,
        body,
        headers: JSON.stringify(headers),
        created: this.#clock.now(),
        visible: this.#at(due),
      },
      ...{ attempt: leased ? 1 : 0, state: leased ? 'leased' : 'waiting' },
      ...{ uncounted: 0, due_shard: this.shard(id) },
      ...(fingerprint !== null && { fingerprint }),
    }
    const [limit, bytes] = [ITEM_BYTES - SETTLING_BYTES, itemBytes({ ...item })]
    if (bytes > limit) throw new EventTooLargeError(type, limit, bytes)
    return {
      TableName: this.#tables.events,
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
  settleAlone(settle: Settlement, mark: string): TransactItem {
    const { Update, Delete } = this.settle(settle)
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

  /** The same in a transaction. @throws StorageError */
  settle(settle: Settlement): TransactItem {
    const held = {
      TableName: this.#tables.events,
      Key: { id: settle.id },
      ConditionExpression: '#state = :needed AND attempt = :attempt',
      ExpressionAttributeNames: { '#state': 'state' },
    }
    const change = changeBy(settle)
    const values = { ':needed': change.from, ':attempt': settle.attempt }
    if (change.to === 'deleted') return { Delete: { ...held, ExpressionAttributeValues: values } }
    const { set, remove, parameters } =
      change.to === 'waiting' ? this.#reopening(settle.id, change) : this.#closing(settle.id, change)
    const fails = change.error !== null
    return {
      Update: {
        ...held,
        UpdateExpression: `SET #state = :state, ${set}${fails ? ', #error = :error' : ''}${remove}`,
        ExpressionAttributeNames: { ...held.ExpressionAttributeNames, ...(fails && { '#error': 'error' }) },
        ExpressionAttributeValues: {
          ...{ ...values, ':state': change.to, ...parameters },
          ...(fails && { ':error': change.error }),
        },
      },
    }
  }

  /** A payload's item, or several where it is larger than one. @throws StorageError */
  put({ id, data, expires }: PayloadRecord): Put[] {
    const at = this.#at(expires)
    const parts = Math.max(1, Math.ceil(data.byteLength / PART_BYTES))
    const token = randomUUID()
    return Array.from({ length: parts }, (_, part) => {
      const item: PayloadItem = {
        id: partId(id, part),
        data: data.slice(part * PART_BYTES, (part + 1) * PART_BYTES),
        ...{ parts, token, expires_at: Math.ceil(at / 1000), expires_ms: at },
      }
      return { TableName: this.#tables.payloads, Item: item }
    })
  }

  /** Removes a payload that has so many parts. */
  remove(id: string, parts: number): Delete[] {
    return Array.from({ length: parts }, (_, part) => ({
      TableName: this.#tables.payloads,
      Key: { id: partId(id, part) },
    }))
  }

  /** @throws EventTooLargeError, StorageError: what making its items would throw */
  check({ settle, append, put }: Outcome): void {
    if (settle) this.settle(settle)
    for (const event of append) this.append(event)
    for (const { expires } of put) this.#at(expires)
  }

  shard(id: string): string {
    return String(crc32(id) % this.#tables.shards)
  }

  /** Back into the index of what is due, where it is not in it any more. */
  #reopening(id: string, { from, inMs, pardon }: Change): Update {
    const visible = moment(this.#clock.now() + inMs)
    if (from === 'leased') {
      const set = 'visible = :visible, uncounted = uncounted + :pardoned'
      return { set, remove: '', parameters: { ':visible': visible, ':pardoned': pardon === 'one' ? 1 : 0 } }
    }
    return {
      set: 'visible = :visible, due_shard = :shard, uncounted = attempt',
      remove: ' REMOVE closed, closed_at',
      parameters: { ':visible': visible, ':shard': this.shard(id) },
    }
  }

  /** Out of that index, and into the one of dead letters or of what waits for the end of its retention. */
  #closing(id: string, { to, inMs }: Change): Update {
    const closed = to === 'dead' ? 'dead' : doneIn(this.shard(id))
    return {
      set: 'closed = :closed, closed_at = :at',
      remove: ' REMOVE due_shard',
      parameters: { ':closed': closed, ':at': moment(this.#clock.now() + inMs) },
    }
  }

  #at(when: When): number {
    return moment('at' in when ? Math.round(when.at) : this.#clock.now() + when.inMs)
  }
}

/** Where completed events are found that wait for the end of their retention. */
export function doneIn(shard: string): string {
  return `done-${shard}`
}

/** The key of a payload's n-th part; no claim id has a #. */
export function partId(id: string, part: number): string {
  return part === 0 ? id : `${id}#${part}`
}

/** Whether an item is one of the further parts of a payload. */
export function isPart(id: string): boolean {
  return id.includes('#')
}

export function storedEvent({
  id,
  type,
  body,
  headers,
  created,
  attempt,
  uncounted,
}: EventItem): StoredEvent {
  return { id, type, body, headers: JSON.parse(headers), createdAt: created, attempt, uncounted }
}
