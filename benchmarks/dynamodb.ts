import { randomUUID } from 'node:crypto'
import { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { DeleteCommand, DynamoDBDocumentClient, QueryCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb'
import { OutboxEventBus } from 'outbox-core'
import { DynamoDBAwsSdkOutbox, type DynamoDBTransaction } from 'outbox-dynamodb-aws-sdk'
import { startServer } from '../test/servers/index.ts'
import { type Arm, assertDelivered, type Workload } from './measure.ts'
import { drain, type Fresh, sagas } from './ours.ts'

const TRANSACTION_ITEMS = 100

export async function dynamodb(scale: number): Promise<readonly Workload[]> {
  const server = await startServer('dynamodb')
  if (!server) return []
  const events = Math.round(2_000 * scale)
  const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }

  const open = async (): Promise<
    Fresh<DynamoDBTransaction> & { client: DynamoDBDocumentClient; table: string }
  > => {
    const dynamo = new DynamoDBClient({ endpoint: server.url, region: 'local', credentials })
    const client = DynamoDBDocumentClient.from(dynamo)
    const suffix = randomUUID().replaceAll('-', '').slice(0, 16)
    const tables = { events: `events_${suffix}`, payloads: `payloads_${suffix}` }
    const outbox = new DynamoDBAwsSdkOutbox(client, { tables, shards: 1, logger: false })
    await outbox.initialize()
    return { client, table: tables.events, outbox, write: () => {}, close: () => client.destroy() }
  }

  async function fill(
    bus: OutboxEventBus<Record<string, unknown>, DynamoDBTransaction>,
    count: number,
  ): Promise<void> {
    for (let from = 0; from < count; from += TRANSACTION_ITEMS) {
      await bus.emitMany(
        Array.from({ length: TRANSACTION_ITEMS }, (_, n) => ({ type: 'noop', payload: { n: from + n } })),
      )
    }
  }

  /** Query, conditional updates, conditional deletes: the same requests without a library. */
  const byHand: Arm = {
    name: 'lib-dynamodb by hand',
    async run(time) {
      const { client, table, outbox, close } = await open()
      await fill(new OutboxEventBus(outbox), events)
      let handled = 0
      await time(async () => {
        for (;;) {
          const { Items = [] } = await client.send(
            new QueryCommand({
              TableName: table,
              IndexName: 'due',
              KeyConditionExpression: 'due_shard = :shard AND visible <= :now',
              ExpressionAttributeValues: { ':shard': '0', ':now': Date.now() },
              Limit: 25,
            }),
          )
          if (Items.length === 0) return
          await Promise.all(
            Items.map(async ({ id, visible }) => {
              const { Attributes } = await client.send(
                new UpdateCommand({
                  TableName: table,
                  Key: { id },
                  UpdateExpression: 'SET visible = :until, attempt = attempt + :one',
                  ConditionExpression: 'visible = :visible',
                  ExpressionAttributeValues: {
                    ':until': Date.now() + 30_000,
                    ':one': 1,
                    ':visible': visible,
                  },
                  ReturnValues: 'ALL_NEW',
                }),
              )
              if (JSON.parse(Attributes?.['body'])) handled++
              await client.send(
                new DeleteCommand({
                  TableName: table,
                  Key: { id },
                  ConditionExpression: 'attempt = :one',
                  ExpressionAttributeValues: { ':one': 1 },
                }),
              )
            }),
          )
        }
      })
      assertDelivered(events, handled)
      await close()
      return events
    },
  }

  return [
    {
      name: 'dynamodb: drain no-op events, concurrency 24',
      target: 0.5,
      arms: [byHand, drain(open, events, 24, fill)],
    },
    { name: 'dynamodb: three-step sagas, steps', arms: [sagas(open, Math.round(100 * scale), 0)] },
  ]
}
