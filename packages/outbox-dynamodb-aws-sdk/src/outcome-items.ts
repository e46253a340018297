import type { NewEvent, Outcome } from 'outbox-core'
import type { EventItems, StoredPart } from './event-items.ts'
import type { Keys, Order, Turns } from './keys.ts'
import type { PayloadItems } from './payload-items.ts'
import type { Payloads } from './payloads.ts'
import type { TransactItem } from './transact-item.ts'
import type { DynamoDBTransaction } from './transaction.ts'

export interface ItemParts {
  readonly events: EventItems
  readonly payloadItems: PayloadItems
  readonly payloads: Payloads
  readonly keys: Keys
  readonly chunks: boolean
}

/** What is written in a transaction; the last of its items, so many, keep the order of keys. */
export interface Written {
  readonly items: readonly TransactItem[]
  readonly ordering: number
}

/** Makes items of outcomes: settlements, events, payloads. */
export class OutcomeItems {
  readonly #parts: ItemParts

  constructor(parts: ItemParts) {
    this.#parts = parts
  }

  /** An outcome's items, without those that it removes and those that keep the order of keys. */
  written({ settle, append, put }: Outcome, order?: Order, stored?: StoredPart): TransactItem[] {
    return [
      ...(settle ? [this.#parts.events.settle(settle, stored)] : []),
      ...this.#appended(append, order),
      ...put.flatMap((record) => this.#parts.payloadItems.put(record)),
    ]
  }

  /** Those that a transaction has collected: settlements, events, payloads, the order of keys. */
  collected({ collected }: DynamoDBTransaction, turns: Turns): Written {
    const { events, payloadItems, keys } = this.#parts
    const order = keys.order(turns)
    const items = [
      ...Array.from(collected.settlements.values(), ({ settle, stored }) => events.settle(settle, stored)),
      ...this.#appended(collected.events.values(), order),
      ...[...collected.payloads].flatMap(([id, change]) =>
        'data' in change ? payloadItems.put(change) : payloadItems.remove(id, change.parts),
      ),
      ...order.items,
    ]
    return { items, ordering: order.items.length }
  }

  /** Those that remove payloads. */
  async removals(ids: readonly string[]): Promise<TransactItem[]> {
    const items: TransactItem[] = []
    for (const id of ids) items.push(...this.#parts.payloadItems.remove(id, await this.parts(id)))
    return items
  }

  /** How many items a payload has. */
  async parts(id: string): Promise<number> {
    return this.#parts.chunks ? this.#parts.payloads.parts(id) : 1
  }

  #appended(events: Iterable<NewEvent>, order?: Order): TransactItem[] {
    return Array.from(events, (event) => ({
      Put: this.#parts.events.append(event, order?.places.get(event.id)),
    }))
  }
}
