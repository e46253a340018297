import { randomUUID } from 'node:crypto'
import type { Clock, PayloadRecord } from 'outbox-core'
import { ITEM_BYTES, itemBytes } from './item-size.ts'
import { momentOf } from './moments.ts'
import type { Tables } from './schema.ts'
import type { TransactItem } from './transact-item.ts'

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

/** Makes items of payloads. */
export class PayloadItems {
  readonly #table: string
  readonly #clock: Clock

  constructor(tables: Tables, clock: Clock) {
    this.#table = tables.payloads
    this.#clock = clock
  }

  /** A payload's item, or several where it is larger than one. @throws StorageError */
  put({ id, data, expires }: PayloadRecord): TransactItem[] {
    const at = momentOf(expires, this.#clock)
    const parts = Math.max(1, Math.ceil(data.byteLength / PART_BYTES))
    const token = randomUUID()
    return Array.from({ length: parts }, (_, part) => {
      const item: PayloadItem = {
        id: partId(id, part),
        data: data.slice(part * PART_BYTES, (part + 1) * PART_BYTES),
        ...{ parts, token, expires_at: Math.ceil(at / 1000), expires_ms: at },
      }
      return { Put: { TableName: this.#table, Item: item } }
    })
  }

  /** Removes a payload that has so many parts. */
  remove(id: string, parts: number): TransactItem[] {
    return Array.from({ length: parts }, (_, part) => ({
      Delete: { TableName: this.#table, Key: { id: partId(id, part) } },
    }))
  }
}

/** The key of a payload's n-th part; no claim id has a #. */
export function partId(id: string, part: number): string {
  return part === 0 ? id : `${id}#${part}`
}

/** Whether an item is one of the further parts of a payload. */
export function isPart(id: string): boolean {
  return id.includes('#')
}
