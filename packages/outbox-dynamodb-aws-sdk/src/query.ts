import { QueryCommand, type QueryCommandInput } from '@aws-sdk/client-dynamodb'
import { type Attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'

interface Page<Item> {
  readonly Items?: readonly Item[]
  readonly Count?: number
  readonly LastEvaluatedKey?: Attributes
}

/** One page of what a query finds. */
export async function page<Item>(
  client: DocumentClient,
  query: QueryCommandInput,
  more: Partial<QueryCommandInput>,
): Promise<Page<Item>> {
  const { Items, ...rest } = await send<Page<Attributes>>(client, new QueryCommand({ ...query, ...more }))
  return { ...rest, ...(Items && { Items: Items.map(plain<Item>) }) }
}

/** All that a query finds, one page after the other. */
export async function* pages<Item>(
  client: DocumentClient,
  query: QueryCommandInput,
  more: Partial<QueryCommandInput> = {},
): AsyncGenerator<Page<Item>> {
  let start: Attributes | undefined
  do {
    const found = await page<Item>(client, query, { ...more, ...(start && { ExclusiveStartKey: start }) })
    yield found
    start = found.LastEvaluatedKey
  } while (start)
}

/** How many a query finds. */
export async function count(client: DocumentClient, query: QueryCommandInput): Promise<number> {
  let sum = 0
  for await (const { Count = 0 } of pages(client, query, { Select: 'COUNT' })) sum += Count
  return sum
}
