import { randomUUID } from 'node:crypto'
import { CreateTableCommand, DeleteTableCommand, DynamoDBClient } from '@aws-sdk/client-dynamodb'
import {
  DynamoDBDocumentClient,
  ScanCommand,
  TransactWriteCommand,
  UpdateCommand,
} from '@aws-sdk/lib-dynamodb'
import type { Backend, RawEvent } from 'outbox-core/testing'
import {
  DynamoDBAwsSdkOutbox,
  type DynamoDBAwsSdkOutboxOptions,
  type DynamoDBTransaction,
} from '../src/index.ts'

function documentClient(url: string): DynamoDBDocumentClient {
  const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }
  const client = new DynamoDBClient({ endpoint: url, region: 'local', credentials })
  return DynamoDBDocumentClient.from(client, { marshallOptions: { removeUndefinedValues: true } })
}

/** A DynamoDB backend: tables of its own for every place. */
export function dynamoBackend(
  url: string,
  more: DynamoDBAwsSdkOutboxOptions = {},
  sent: (command: string, input: object) => void = () => {},
): Backend<DynamoDBTransaction> {
  return {
    name: 'lib-dynamodb',
    traits: { collectsWrites: true },
    async open(options = {}) {
      const suffix = randomUUID().replaceAll('-', '').slice(0, 16)
      const names = { events: `events_${suffix}`, payloads: `payloads_${suffix}` }
      const business = `business_${suffix}`
      const clients: DynamoDBDocumentClient[] = []
      let requests = 0
      const connect = (): DynamoDBDocumentClient => {
        const client = documentClient(url)
        client.middlewareStack.add(
          (next, { commandName }) =>
            (args) => {
              requests++
              sent(String(commandName), args.input)
              return next(args)
            },
          { step: 'initialize' },
        )
        clients.push(client)
        return client
      }
      const client = connect()
      const raw = documentClient(url)
      clients.push(raw)
      await raw.send(
        new CreateTableCommand({
          TableName: business,
          BillingMode: 'PAY_PER_REQUEST',
          KeySchema: [{ AttributeName: 'key', KeyType: 'HASH' }],
          AttributeDefinitions: [{ AttributeName: 'key', AttributeType: 'S' }],
        }),
      )
      const outbox = new DynamoDBAwsSdkOutbox(client, { ...more, ...options, tables: names })
      await outbox.initialize()
      const scan = async (TableName: string): Promise<Record<string, unknown>[]> => {
        const items: Record<string, unknown>[] = []
        let start: Record<string, unknown> | undefined
        do {
          const page = await raw.send(
            new ScanCommand({ TableName, ConsistentRead: true, ExclusiveStartKey: start }),
          )
          items.push(...(page.Items ?? []))
          start = page.LastEvaluatedKey
        } while (start)
        return items
      }
      const set = (TableName: string, id: string, name: string, value: unknown) =>
        raw.send(
          new UpdateCommand({
            TableName,
            Key: { id },
            UpdateExpression: 'SET #name = :value',
            ExpressionAttributeNames: { '#name': name },
            ExpressionAttributeValues: { ':value': value },
          }),
        )
      return {
        outbox,
        sibling: async (other) =>
          new DynamoDBAwsSdkOutbox(connect(), { ...more, ...options, ...other, tables: names }),
        writeBusinessRow: (tx, key) => void tx.put({ TableName: business, Item: { key } }),
        businessRows: async () => (await scan(business)).map(({ key }) => key as string),
        async ownTransaction(work) {
          const tx = outbox.begin()
          await work(tx)
          if (tx.items.length === 0) return
          await client.send(new TransactWriteCommand({ TransactItems: [...tx.items] }))
        },
        async events() {
          const items = (await scan(names.events))
            .filter(({ state }) => state !== undefined)
            .toSorted(
              (a, b) =>
                Number(a['created']) - Number(b['created']) || (String(a['id']) < String(b['id']) ? -1 : 1),
            )
          return items.map(
            ({ id, type, body, headers, state, attempt }) =>
              ({ id, type, body, headers: JSON.parse(headers as string), state, attempt }) as RawEvent,
          )
        },
        async payloads() {
          return (await scan(names.payloads)).map(({ id, data, expires_ms }) => ({
            id: id as string,
            data: data as Uint8Array,
            expiresAt: expires_ms as number,
          }))
        },
        overwritePayload: async (id, data) => void (await set(names.payloads, id, 'data', data)),
        async expirePayload(id) {
          await set(names.payloads, id, 'expires_ms', 1)
        },
        async expireLeases() {
          for (const { id, state } of await scan(names.events)) {
            if (state === 'leased') await set(names.events, id as string, 'visible', 1)
          }
        },
        roundTrips: () => requests,
        connections: async () => 0,
        async destroy() {
          await outbox.close()
          for (const TableName of [names.events, names.payloads, business]) {
            await raw.send(new DeleteTableCommand({ TableName }))
          }
          for (const one of clients) one.destroy()
        },
      }
    },
  }
}
