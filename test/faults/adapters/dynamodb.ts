import { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, ScanCommand } from '@aws-sdk/lib-dynamodb'
import type { Outbox } from 'outbox-core'
import { DynamoDBAwsSdkOutbox, type DynamoDBTransaction } from 'outbox-dynamodb-aws-sdk'
import { headersOf, type Open, PATIENCE_MS } from './adapter.ts'
import type { DriverFaults } from './driver-faults.ts'

const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }

export const open: Open = async (url, place, { poolSize: _one, impatient, faults, ...options } = {}) => {
  const requestHandler = impatient ? { requestTimeout: PATIENCE_MS, throwOnRequestTimeout: true } : {}
  const client = DynamoDBDocumentClient.from(
    new DynamoDBClient({ endpoint: url, region: 'local', credentials, requestHandler }),
  )
  if (faults) makeFaulty(client, faults)
  const tables = { events: `${place}_events`, payloads: `${place}_payloads` }
  // Idle workers ask each shard: what that costs DynamoDB Local, the others have to wait for.
  const outbox = new DynamoDBAwsSdkOutbox(client, { tables, shards: 1, logger: false, ...options })
  return {
    outbox: outbox as unknown as Outbox,
    prepare: () => outbox.initialize(),
    // The rows are items of the payloads' table, under ids that no claim has.
    write: (tx, key) =>
      (tx as DynamoDBTransaction).put({ TableName: tables.payloads, Item: { id: `row#${key}` } }),
    async contents() {
      const events = await scan(client, tables.events, 'due_shard', 'headers', 'state')
      const items = (await scan(client, tables.payloads, 'id')).map(({ id }) => String(id))
      return {
        rows: items.filter((id) => id.startsWith('row#')).map((id) => id.slice(4)),
        events: events
          .filter(({ due_shard, state }) => due_shard || state === 'blocked')
          .map(({ headers }) => headersOf(headers)),
        dead: events.filter(({ state }) => state === 'dead').length,
        payloads: items.filter((id) => !id.startsWith('row#')),
      }
    },
    async close() {
      await outbox.close()
      client.destroy()
    },
  }
}

async function scan(
  client: DynamoDBDocumentClient,
  TableName: string,
  ...attributes: string[]
): Promise<Record<string, unknown>[]> {
  const items: Record<string, unknown>[] = []
  for (let start: Record<string, unknown> | undefined; ; ) {
    const page = await client.send(
      new ScanCommand({
        TableName,
        ConsistentRead: true,
        // By names of their own: some are words of DynamoDB's.
        ProjectionExpression: attributes.map((name) => `#${name}`).join(),
        ExpressionAttributeNames: Object.fromEntries(attributes.map((name) => [`#${name}`, name])),
        ExclusiveStartKey: start,
      }),
    )
    items.push(...(page.Items ?? []))
    start = page.LastEvaluatedKey
    if (!start) return items
  }
}

/** Above the SDK's own retries: what its user sees after all of them. */
function makeFaulty(client: DynamoDBDocumentClient, faults: DriverFaults): void {
  const named = (name: string, message: string, httpStatusCode: number): Error =>
    Object.assign(new Error(message), { name, $metadata: { httpStatusCode } })
  client.middlewareStack.add(
    (next) => (call) =>
      faults.around(
        () => next(call),
        () =>
          faults.oneOf(
            named('ProvisionedThroughputExceededException', 'The level of throughput was exceeded', 400),
            named('InternalServerError', 'Internal server error', 500),
          ),
        () =>
          faults.oneOf(
            Object.assign(new Error('socket hang up'), { name: 'TimeoutError', code: 'ECONNRESET' }),
            named('InternalServerError', 'Internal server error', 500),
          ),
      ),
    { step: 'initialize' },
  )
}
