import { DescribeTableCommand } from '@aws-sdk/client-dynamodb'
import { StorageError, TransactionTooLargeError } from 'outbox-core'
import { type DocumentClient, send } from './client.ts'
import { isNumber, itemBytes } from './item-size.ts'
import type { Tables } from './schema.ts'
import type { TransactItem } from './transact-item.ts'

const MOST_ITEMS = 100
const MOST_BYTES = 4 * 1024 * 1024

/** @throws TransactionTooLargeError */
export function assertSize(items: readonly TransactItem[]): void {
  if (items.length > MOST_ITEMS) throw new TransactionTooLargeError('items', MOST_ITEMS, items.length)
  const bytes = items.reduce((sum, item) => sum + requestBytes(item), 0)
  if (bytes > MOST_BYTES) throw new TransactionTooLargeError('bytes', MOST_BYTES, bytes)
}

function requestBytes({ Put, Update, Delete, ConditionCheck }: TransactItem): number {
  if (Put) return itemBytes(Put.Item ?? {})
  const { Key = {}, ExpressionAttributeValues = {} } = Update ?? Delete ?? ConditionCheck ?? {}
  // Conditions are not written, and don't count.
  return itemBytes(Key) + (Update ? itemBytes(ExpressionAttributeValues) : 0)
}

/** Tells whether items of a transaction are the same one, which DynamoDB refuses. */
export class Identities {
  readonly #client: DocumentClient
  /** The names of a table's key attributes; undefined where it may not be described. */
  readonly #keys: Map<string, Promise<readonly string[] | undefined>>

  constructor(client: DocumentClient, { events, payloads }: Tables) {
    this.#client = client
    this.#keys = new Map([events, payloads].map((table) => [table, Promise.resolve(['id'])]))
  }

  /** @throws StorageError */
  async assertDistinct(items: readonly TransactItem[]): Promise<void> {
    for (const [table, rivals] of Map.groupBy(items.entries(), ([, item]) => tableOf(item))) {
      if (table === undefined || rivals.length < 2) continue
      const names = await this.#keyNames(
        table,
        rivals.map(([, item]) => item),
      )
      const seen = new Map<string, number>()
      for (const [index, item] of names ? rivals : []) {
        const identity = JSON.stringify(names?.map((name) => keyText(attributesOf(item)[name])))
        const earlier = seen.get(identity)
        if (earlier !== undefined) throw sameItem(table, earlier, index)
        seen.set(identity, index)
      }
    }
  }

  #keyNames(table: string, items: readonly TransactItem[]): Promise<readonly string[] | undefined> {
    const keyed = items.find(({ Put }) => !Put)
    if (keyed) return Promise.resolve(Object.keys(attributesOf(keyed)))
    const known = this.#keys.get(table) ?? this.#described(table)
    this.#keys.set(table, known)
    return known
  }

  async #described(TableName: string): Promise<readonly string[] | undefined> {
    type Described = { Table?: { KeySchema?: readonly { AttributeName?: string }[] } }
    try {
      const { Table } = await send<Described>(this.#client, new DescribeTableCommand({ TableName }))
      return Table?.KeySchema?.map(({ AttributeName = '' }) => AttributeName)
    } catch {
      // Missing, or none of our business: DynamoDB itself will tell.
      this.#keys.delete(TableName)
      return undefined
    }
  }
}

function tableOf({ Put, Update, Delete, ConditionCheck }: TransactItem): string | undefined {
  return (Put ?? Update ?? Delete ?? ConditionCheck)?.TableName
}

/** The attributes that hold an item's key: all of it for a put. */
function attributesOf({
  Put,
  Update,
  Delete,
  ConditionCheck,
}: TransactItem): Readonly<Record<string, unknown>> {
  return Put?.Item ?? (Update ?? Delete ?? ConditionCheck)?.Key ?? {}
}

function keyText(value: unknown): string {
  if (isNumber(value)) return `N${value}`
  if (ArrayBuffer.isView(value)) {
    return `B${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64')}`
  }
  return `S${value}`
}

function sameItem(table: string, first: number, second: number): StorageError {
  return new StorageError(
    `items ${first + 1} and ${second + 1} of the transaction are the same item of table "${table}", and DynamoDB takes ` +
      'each item once: make one of the two; nothing was sent',
    { transient: false, refused: true },
  )
}
