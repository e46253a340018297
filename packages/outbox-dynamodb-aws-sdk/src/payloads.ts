import { CorruptPayloadError } from 'outbox-core'
import type { DocumentClient } from './client.ts'
import { parallel } from './parallel.ts'
import { type PayloadItem, partId } from './payload-items.ts'
import { readItem } from './read-item.ts'
import type { Tables } from './schema.ts'

// More often than anyone replaces a payload while it is being read.
const MOST_READS = 5

/** Reads payloads, of one item or several. */
export class Payloads {
  readonly #client: DocumentClient
  readonly #table: string

  constructor(client: DocumentClient, tables: Tables) {
    this.#client = client
    this.#table = tables.payloads
  }

  /** The bytes, or undefined when there are none or they have expired. */
  async read(id: string, now: number): Promise<Uint8Array | undefined> {
    let first = await this.#part(id, 0)
    for (let reads = 1; ; reads++) {
      if (!first || first.expires_ms <= now) return undefined
      const data = await this.#whole(id, first)
      if (data) return data
      const again = await this.#part(id, 0)
      if (again?.token === first.token || reads === MOST_READS) {
        throw new CorruptPayloadError(`payload "${id}" has ${first.parts} parts, and not all are there`)
      }
      // It was replaced or removed meanwhile.
      first = again
    }
  }

  /** How many items hold a payload; 1 when there is none. */
  async parts(id: string): Promise<number> {
    return (await this.#part(id, 0, 'parts'))?.parts ?? 1
  }

  /** All parts together, or undefined when one is missing or belongs to another put. */
  async #whole(id: string, first: PayloadItem): Promise<Uint8Array | undefined> {
    // A client with `convertEmptyValues` stores no bytes as NULL.
    if (first.parts === 1) return first.data ?? new Uint8Array()
    const rest = Array.from({ length: first.parts - 1 }, (_, index) => index + 1)
    const parts = [first, ...(await parallel(rest, (part) => this.#part(id, part)))]
    if (parts.some((part) => part?.token !== first.token)) return undefined
    return Buffer.concat(parts.map((part) => part?.data ?? new Uint8Array()))
  }

  #part(id: string, part: number, only?: string): Promise<PayloadItem | undefined> {
    return readItem(this.#client, this.#table, partId(id, part), only)
  }
}
