import { CreateTableCommand, DeleteTableCommand, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb'
import { NotInitializedError, OutboxEventBus, UnsupportedBackendError } from 'outbox-core'
import { recordingLogger } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import {
  DynamoDBAwsSdkOutbox,
  type DynamoDBAwsSdkOutboxOptions,
  eventsTable,
  payloadsTable,
} from '../src/index.ts'
import { awsError, cleanups, documentClient, opened, tableNames } from './opened.ts'

const TABLE_ACTIONS = ['DescribeTable', 'CreateTable', 'DescribeTimeToLive', 'UpdateTimeToLive']

/** A client without the right to some actions; notes those that it is asked for. */
function restricted(actions: readonly string[]) {
  const client = documentClient()
  const asked = new Set<string>()
  client.middlewareStack.add(
    (next, { commandName }) =>
      async (args) => {
        const action = String(commandName).replace(/Command$/, '')
        asked.add(action)
        if (!actions.includes(action)) return next(args)
        throw awsError('AccessDeniedException', {
          message: `not authorized to perform: dynamodb:${action}`,
          $metadata: { httpStatusCode: 400 },
        })
      },
    { step: 'initialize' },
  )
  cleanups.push(async () => client.destroy())
  return { client, asked }
}

/** Tables that infrastructure code has made. */
async function given({ timeToLive = true } = {}) {
  const client = documentClient()
  const tables = tableNames()
  for (const table of [eventsTable({ tables }), payloadsTable({ tables })]) {
    await client.send(new CreateTableCommand(table))
    cleanups.push(() => client.send(new DeleteTableCommand({ TableName: table.TableName })))
  }
  const TimeToLiveSpecification = { Enabled: true, AttributeName: 'expires_at' }
  if (timeToLive) {
    await client.send(new UpdateTimeToLiveCommand({ TableName: tables.payloads, TimeToLiveSpecification }))
  }
  return tables
}

/** Emits, handles and stores: what an application does once it has started. */
async function used(outbox: DynamoDBAwsSdkOutbox): Promise<void> {
  const bus = new OutboxEventBus(outbox)
  bus.on('a', () => {})
  await bus.start()
  const handled = bus.waitFor('a', { timeout: '20s' })
  await outbox.transaction(() => bus.emit('a', {}))
  await handled
  await bus.stop()
  const store = outbox.sagaStore('1h')
  await store.put('claim', Uint8Array.of(1))
  expect([...((await store.get('claim')) ?? [])]).toEqual([1])
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, with few rights', () => {
  test.each<[string, readonly string[], DynamoDBAwsSdkOutboxOptions]>([
    ['none to any table', TABLE_ACTIONS, {}],
    ['none to any table, and creates none', TABLE_ACTIONS, { createTables: false }],
    ['none to describe a table', ['DescribeTable'], {}],
    ['none to look at the time to live', ['DescribeTimeToLive'], {}],
    ['none to change anything', ['CreateTable', 'UpdateTimeToLive'], {}],
  ])('who has %s initializes and starts on tables that fit', async (_, denied, options) => {
    const tables = await given()
    const logger = recordingLogger()
    const outbox = new DynamoDBAwsSdkOutbox(restricted(denied).client, { tables, logger, ...options })
    await outbox.initialize()
    await used(outbox)
    const warnings = logger.lines.filter(({ level }) => level === 'warn').map(({ message }) => message)
    const told = denied.includes('DescribeTimeToLive')
    expect(warnings).toEqual(told ? [expect.stringContaining('time to live may not be looked at')] : [])
  })

  test('who may not describe a table that is missing, or lacks an index, is told so', async () => {
    const { client } = restricted(TABLE_ACTIONS)
    const missing = new DynamoDBAwsSdkOutbox(client, { tables: tableNames(), logger: false })
    await expect(missing.initialize()).rejects.toThrow(NotInitializedError)
    await expect(missing.initialize()).rejects.toThrow(
      /allow dynamodb:DescribeTable and dynamodb:CreateTable/,
    )
    const { tables } = await opened()
    const swapped = { events: tables.payloads, payloads: tables.events }
    const foreign = new DynamoDBAwsSdkOutbox(client, { tables: swapped, logger: false })
    await expect(foreign.initialize()).rejects.toThrow(NotInitializedError)
  })

  test('a time to live that is off and may not be switched on is refused with what to do', async () => {
    const tables = await given({ timeToLive: false })
    const outbox = new DynamoDBAwsSdkOutbox(restricted(['UpdateTimeToLive']).client, {
      tables,
      logger: false,
    })
    await expect(outbox.initialize()).rejects.toThrow(UnsupportedBackendError)
    await expect(outbox.initialize()).rejects.toThrow(/switch it on, on attribute "expires_at"/)
  })

  test('who only emits needs no right but that to put', async () => {
    const { tables, outbox } = await opened()
    const { client, asked } = restricted([...TABLE_ACTIONS, 'GetItem', 'Query', 'UpdateItem', 'DeleteItem'])
    const emitting = new DynamoDBAwsSdkOutbox(client, { tables, logger: false })
    await emitting.initialize()
    asked.clear()
    await new OutboxEventBus(emitting).emit('a', {})
    expect([...asked]).toEqual(['PutItem', 'TransactWriteItems'])
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })
})
