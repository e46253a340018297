import { randomUUID } from 'node:crypto'
import { DeleteTableCommand, DynamoDBClient } from '@aws-sdk/client-dynamodb'
import {
  DeleteCommand,
  DynamoDBDocumentClient,
  GetCommand,
  PutCommand,
  QueryCommand,
  ScanCommand,
  TransactWriteCommand,
  UpdateCommand,
} from '@aws-sdk/lib-dynamodb'
import { DynamoDBAwsSdkOutbox, type DynamoDBTransaction } from 'outbox-dynamodb-aws-sdk'
import { armsOn, type Contender, type Database, type OpenOptions, type Ours, polling } from '../contender.ts'
import { ours } from '../ours.ts'
import { newPlace, sharedServer } from './servers.ts'

// What an item may have, names of attributes included.
const ITEM_BYTES = 400 * 1024

interface Opened {
  /** Suffix of the tables. */
  readonly place: string
  readonly tables: { readonly events: string; readonly payloads: string }
  readonly client: DynamoDBDocumentClient
  readonly outbox: DynamoDBAwsSdkOutbox
  close(): Promise<void>
}

async function open(endpoint: string, { place, onCall }: OpenOptions): Promise<Opened> {
  const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }
  const dynamo = new DynamoDBClient({ endpoint, region: 'local', credentials })
  const client = DynamoDBDocumentClient.from(dynamo)
  if (onCall) {
    client.middlewareStack.add(
      (next) => (call) => {
        onCall()
        return next(call)
      },
      { step: 'finalizeRequest' },
    )
  }
  const suffix = place ?? newPlace()
  const tables = { events: `events_${suffix}`, payloads: `payloads_${suffix}` }
  // One shard is one query a poll, by hand too.
  const outbox = new DynamoDBAwsSdkOutbox(client, { tables, shards: 1, logger: false })
  await outbox.initialize()
  return {
    place: suffix,
    tables,
    client,
    outbox,
    async close() {
      if (place === undefined) {
        for (const TableName of Object.values(tables))
          await client.send(new DeleteTableCommand({ TableName }))
      }
      client.destroy()
    },
  }
}

// The user's own item, in a table that is there.
function business({ payloads }: Opened['tables']): { TableName: string; Item: Record<string, unknown> } {
  return { TableName: payloads, Item: { id: `business-${randomUUID()}`, n: 1 } }
}

async function openOurs(url: string, options: OpenOptions): Promise<Ours> {
  const { place, tables, outbox, close } = await open(url, options)
  return ours<DynamoDBTransaction>({ place, outbox, write: (tx) => tx.put(business(tables)), close }, options)
}

function byHand({ place, tables, client, close }: Opened): Contender {
  const TableName = tables.events
  const item = (payload: object): Record<string, unknown> => ({
    id: randomUUID(),
    type: 'noop',
    body: JSON.stringify(payload),
    headers: '{}',
    attempt: 0,
    due_shard: '0',
    visible: Date.now(),
  })
  const transact = (items: readonly { TableName: string; Item: Record<string, unknown> }[]) =>
    client.send(new TransactWriteCommand({ TransactItems: items.map((Put) => ({ Put })) }))
  const handleOne = async (
    { id, visible }: Record<string, unknown>,
    handle: (payload: { n: number }) => void,
  ): Promise<void> => {
    const { Attributes } = await client.send(
      new UpdateCommand({
        TableName,
        Key: { id },
        UpdateExpression: 'SET visible = :until, attempt = attempt + :one',
        ConditionExpression: 'visible = :visible',
        ExpressionAttributeValues: { ':until': Date.now() + 30_000, ':one': 1, ':visible': visible },
        ReturnValues: 'ALL_NEW',
      }),
    )
    handle(JSON.parse(Attributes?.['body']))
    await client.send(
      new DeleteCommand({
        TableName,
        Key: { id },
        ConditionExpression: 'attempt = :mine',
        ExpressionAttributeValues: { ':mine': Attributes?.['attempt'] },
      }),
    )
  }
  return {
    place,
    emit: (payload) => client.send(new PutCommand({ TableName, Item: item(payload) })),
    emitInTransaction: (payload) => transact([business(tables), { TableName, Item: item(payload) }]),
    emitMany: (payloads) => transact(payloads.map((payload) => ({ TableName, Item: item(payload) }))),
    consume: async (handle) =>
      polling(async () => {
        const { Items = [] } = await client.send(dueQuery(TableName, 25))
        await Promise.all(Items.map((due) => handleOne(due, handle)))
        return Items.length
      }),
    async pending() {
      let pending = 0
      let from: Record<string, unknown> | undefined
      do {
        const page = {
          ...({ TableName, Select: 'COUNT', ConsistentRead: true, ExclusiveStartKey: from } as const),
          // The outbox has made the table, and noted its layout in it.
          FilterExpression: 'attribute_exists(due_shard)',
        }
        const { Count = 0, LastEvaluatedKey } = await client.send(new ScanCommand(page))
        pending += Count
        from = LastEvaluatedKey
      } while (from)
      return pending
    },
    store: {
      limit: ITEM_BYTES,
      put: (id, data) =>
        client.send(
          new PutCommand({ TableName: tables.payloads, Item: { id, data, expires_ms: Date.now() } }),
        ),
      get: (id) =>
        client.send(new GetCommand({ TableName: tables.payloads, Key: { id }, ConsistentRead: true })),
    },
    close,
  }
}

function dueQuery(TableName: string, Limit: number): QueryCommand {
  return new QueryCommand({
    TableName,
    IndexName: 'due',
    KeyConditionExpression: 'due_shard = :shard AND visible <= :now',
    ExpressionAttributeValues: { ':shard': '0', ':now': Date.now() },
    Limit,
  })
}

function naively(opened: Opened): Contender {
  const { client, tables } = opened
  return {
    ...byHand(opened),
    consume: async (handle) =>
      polling(async () => {
        const { Items: [due] = [] } = await client.send(dueQuery(tables.events, 1))
        if (!due) return 0
        const key = { TableName: tables.events, Key: { id: due['id'] } }
        const { Item } = await client.send(new GetCommand(key))
        handle(JSON.parse(Item?.['body']))
        await client.send(new DeleteCommand(key))
        return 1
      }),
  }
}

export async function dynamodb(): Promise<Database | undefined> {
  const url = await sharedServer('dynamodb')
  if (url === undefined) return undefined
  const arm = armsOn((options) => open(url, options))
  return {
    name: 'dynamodb',
    floor: arm('lib-dynamodb by hand', 'floor', byHand),
    ours: { name: 'ours', role: 'ours', open: (options = {}) => openOurs(url, options) },
    naive: { ...arm('naive: one item a time', 'other', naively), share: 0.2 },
    peers: { emit: [], drain: [], latency: [], sagas: [] },
    sizes: {
      emits: 500,
      drain: 2_000,
      sagas: 100,
      payloads: 200,
      openLoop: [100],
      backlogs: [1_000, 10_000],
      batch: 100,
    },
    drainTarget: 0.5,
    async describe() {
      return { DynamoDB: 'DynamoDB Local, in memory', shards: '1' }
    },
  }
}
