import { GetItemCommand } from '@aws-sdk/client-dynamodb'
import { type Attributes, attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'

/** An item as it is now. @param only the one attribute to read of it; all of them by default */
export async function readItem<Item>(
  client: DocumentClient,
  TableName: string,
  id: string,
  only?: string,
): Promise<Item | undefined> {
  const request = new GetItemCommand({
    ...{ TableName, Key: attributes({ id }), ConsistentRead: true },
    ...(only !== undefined && { ProjectionExpression: only }),
  })
  const found = await send<{ Item?: Attributes }>(client, request)
  return found.Item && plain<Item>(found.Item)
}
