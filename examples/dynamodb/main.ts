/** The AWS SDK: DYNAMODB_URL=http://… npm run example dynamodb (without a URL, AWS itself) */
import {
  CreateTableCommand,
  DeleteTableCommand,
  DynamoDBClient,
  waitUntilTableExists,
} from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb'
import { DynamoDBAwsSdkOutbox } from 'outbox-dynamodb-aws-sdk'
import { runOrders } from '../orders.ts'

const endpoint = process.env['DYNAMODB_URL']
const local = endpoint && {
  endpoint,
  region: 'local',
  credentials: { accessKeyId: 'local', secretAccessKey: 'local' },
}
const dynamo = new DynamoDBClient(local || {}) // your own client
const client = DynamoDBDocumentClient.from(dynamo)

const TableName = 'dynamodb_example_orders'
await dynamo.send(
  new CreateTableCommand({
    TableName,
    BillingMode: 'PAY_PER_REQUEST',
    KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }],
    AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
  }),
)
await waitUntilTableExists({ client: dynamo, maxWaitTime: 60 }, { TableName })

const tables = { events: 'dynamodb_example_events', payloads: 'dynamodb_example_payloads' }
const outbox = new DynamoDBAwsSdkOutbox(client, { tables })
await runOrders(outbox, (tx, id) => tx.put({ TableName, Item: { id } }))

for (const name of [TableName, tables.events, tables.payloads]) {
  await dynamo.send(new DeleteTableCommand({ TableName: name }))
}
