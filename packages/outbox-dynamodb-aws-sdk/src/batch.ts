import { setTimeout as sleep } from 'node:timers/promises'
import { BatchGetItemCommand } from '@aws-sdk/client-dynamodb'
import { StorageError } from 'outbox-core'
import { type Attributes, attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'

// BatchGetItem takes no more keys.
const BATCH = 100
const MOST_TRIES = 8

/** Whole items of a table as they are now, in the order of their ids, without those that are not there. */
export async function itemsOf<Item extends { readonly id: string }>(
  client: DocumentClient,
  table: string,
  ids: readonly string[],
): Promise<readonly Item[]> {
  const found = new Map<string, Item>()
  let keys: Attributes[] = [...new Set(ids)].map((id) => attributes({ id }))
  for (let tries = 0; keys.length > 0; ) {
    const asked = keys.slice(0, BATCH)
    const { items, left } = await batch<Item>(client, table, asked)
    for (const item of items) found.set(item.id, item)
    keys = [...left, ...keys.slice(BATCH)]
    // Throttled, the table answers a part of them, or none.
    tries = left.length < asked.length ? 0 : tries + 1
    if (tries === MOST_TRIES) {
      throw new StorageError(`table "${table}" is throttled: it answers nothing of a BatchGetItem`, {
        transient: true,
      })
    }
    if (left.length > 0) await sleep(Math.random() * 10 * 2 ** tries)
  }
  return ids.flatMap((id) => found.get(id) ?? [])
}

async function batch<Item>(
  client: DocumentClient,
  table: string,
  keys: Attributes[],
): Promise<{ items: readonly Item[]; left: readonly Attributes[] }> {
  const request = { RequestItems: { [table]: { Keys: keys, ConsistentRead: true } } }
  const { Responses = {}, UnprocessedKeys = {} } = await send<{
    Responses?: Record<string, Attributes[]>
    UnprocessedKeys?: Record<string, { Keys?: Attributes[] }>
  }>(client, new BatchGetItemCommand(request))
  return { items: (Responses[table] ?? []).map(plain<Item>), left: UnprocessedKeys[table]?.Keys ?? [] }
}
