import { UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import type { Addresses } from './addresses.ts'
import { attributes } from './attributes.ts'
import { itemsOf } from './batch.ts'
import { isAccessDenied } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { ifConditionHolds } from './errors.ts'
import { addressOf, type EventItem, type EventItems } from './event-items.ts'
import type { Layout } from './layout.ts'
import { parallel } from './parallel.ts'
import { pages } from './query.ts'
import { DUE_INDEX, type Tables } from './schema.ts'

interface Parts {
  readonly tables: Tables
  readonly layout: Layout
  readonly events: EventItems
  readonly addresses: Addresses
}

/**
 * Moves events of version 1, whose partitions of the index of what is due had no address, to those of their address:
 * where such a version was, and again and again, since its processes may be running still.
 */
export class OldEvents {
  readonly #client: DocumentClient
  readonly #parts: Parts

  constructor(client: DocumentClient, parts: Parts) {
    this.#client = client
    this.#parts = parts
  }

  /** What this process may not read or change is left to others. */
  async move(): Promise<void> {
    const { layout } = this.#parts
    if (!layout.isUpgraded) return
    try {
      await parallel(layout.shards, (shard) => this.#moveShard(shard))
    } catch (error) {
      if (!isAccessDenied(error as Error)) throw error
    }
  }

  async #moveShard(shard: string): Promise<void> {
    const { events: TableName } = this.#parts.tables
    const query = {
      ...{ TableName, IndexName: DUE_INDEX, KeyConditionExpression: 'due_shard = :shard' },
      ExpressionAttributeValues: attributes({ ':shard': shard }),
    }
    for await (const { Items = [] } of pages<{ id: string }>(this.#client, query, { Limit: 100 })) {
      const ids = Items.map(({ id }) => id)
      const events = await itemsOf<EventItem>(this.#client, TableName, ids)
      await this.#parts.addresses.note(events.map(addressOf))
      await parallel(events, (event) => this.#moveOne(event, shard))
    }
  }

  async #moveOne(event: EventItem, from: string): Promise<void> {
    const { tables, events } = this.#parts
    const request = new UpdateItemCommand({
      ...{ TableName: tables.events, Key: attributes({ id: event.id }) },
      ...{ UpdateExpression: 'SET due_shard = :to', ConditionExpression: 'due_shard = :from' },
      ExpressionAttributeValues: attributes({
        ':from': from,
        ':to': events.dueIn(addressOf(event), event.id),
      }),
    })
    await ifConditionHolds(send(this.#client, request))
  }
}
