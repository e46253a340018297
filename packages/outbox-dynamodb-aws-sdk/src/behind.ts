import type { Clock, LeaseRequest } from 'outbox-core'
import { itemsOf } from './batch.ts'
import type { DocumentClient } from './client.ts'
import { addressOf, type EventItem } from './event-items.ts'
import { type BlockedItem, type Keys, placeId } from './keys.ts'
import type { Tables } from './schema.ts'

// Each that is completed with the first takes two of a transaction's hundred items, beside what its handler writes.
const MOST = 20

/** Reads what waits behind leased events in their keys. */
export class Behind {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #keys: Keys
  readonly #clock: Clock

  constructor(client: DocumentClient, tables: Tables, keys: Keys, clock: Clock) {
    this.#client = client
    this.#table = tables.events
    this.#keys = keys
    this.#clock = clock
  }

  /** What is due right behind each, in order, as far as it has one of the addresses. */
  async of(
    leased: readonly EventItem[],
    { behind = 0, addresses }: LeaseRequest,
  ): Promise<ReadonlyMap<string, readonly EventItem[]>> {
    const keyed = behind > 0 ? leased.filter(({ key }) => key !== undefined) : []
    const counts = await this.#keys.behind(keyed)
    const asked = keyed.map(({ id, key = '', place = 0 }) => {
      const count = Math.min(MOST, behind, counts.get(id) ?? 0)
      return { id, places: Array.from({ length: count }, (_, index) => placeId(key, place + 1 + index)) }
    })
    const blocked = await this.#byId<BlockedItem>(asked.flatMap(({ places }) => places))
    const events = await this.#byId<EventItem>([...blocked.values()].map(({ event }) => event))
    const allowed = new Set(addresses.map(({ address }) => address))
    const now = this.#clock.now()
    return new Map(
      asked.map(({ id, places }) => {
        const next = places.map((place) => events.get(blocked.get(place)?.event ?? ''))
        const end = next.findIndex((event) => !event || event.visible > now || !allowed.has(addressOf(event)))
        return [id, next.slice(0, end === -1 ? next.length : end).filter((event) => event !== undefined)]
      }),
    )
  }

  async #byId<Item extends { readonly id: string }>(ids: readonly string[]): Promise<Map<string, Item>> {
    const found = await itemsOf<Item>(this.#client, this.#table, ids)
    return new Map(found.map((item) => [item.id, item]))
  }
}
