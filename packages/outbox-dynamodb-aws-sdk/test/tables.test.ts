import {
  CreateTableCommand,
  type CreateTableCommandInput,
  DeleteTableCommand,
  DescribeTimeToLiveCommand,
  UpdateTimeToLiveCommand,
} from '@aws-sdk/client-dynamodb'
import { NotInitializedError, OutboxEventBus, UnsupportedBackendError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox, eventsTable, payloadsTable } from '../src/index.ts'
import { awsError, cleanups, type Opened, opened, tableNames } from './opened.ts'

type Change = (definition: CreateTableCommandInput) => void

/** Tables that the user made, after the documented definitions but for the changes. */
async function made(
  { client }: Opened,
  changes: { events?: Change; payloads?: Change } = {},
  timeToLive = true,
) {
  const tables = tableNames()
  const definitions = {
    events: structuredClone(eventsTable({ tables })),
    payloads: structuredClone(payloadsTable({ tables })),
  }
  for (const kind of ['events', 'payloads'] as const) {
    changes[kind]?.(definitions[kind])
    await client.send(new CreateTableCommand(definitions[kind]))
    cleanups.push(() => client.send(new DeleteTableCommand({ TableName: tables[kind] })))
  }
  const TimeToLiveSpecification = { Enabled: true, AttributeName: 'expires_at' }
  if (timeToLive) {
    await client.send(new UpdateTimeToLiveCommand({ TableName: tables.payloads, TimeToLiveSpecification }))
  }
  const options = { tables, logger: false } as const
  return {
    tables,
    creating: new DynamoDBAwsSdkOutbox(client, options),
    checking: new DynamoDBAwsSdkOutbox(client, { ...options, createTables: false }),
  }
}

async function timeToLive({ client }: Opened, TableName: string): Promise<string | undefined> {
  const { TimeToLiveDescription } = await client.send(new DescribeTimeToLiveCommand({ TableName }))
  return TimeToLiveDescription?.TimeToLiveStatus
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, its tables', () => {
  test('those made by the user from the definitions are only looked at, but for a note in one', async () => {
    const place = await opened()
    const { checking } = await made(place)
    const commands = await place.during(() => checking.initialize())
    expect(new Set(commands)).toEqual(
      new Set(['DescribeTableCommand', 'DescribeTimeToLiveCommand', 'GetCommand', 'UpdateCommand']),
    )
    await new OutboxEventBus(checking).emit('a', {})
    expect(await takeDue(checking.storage, 1, 1_000)).toHaveLength(1)
  })

  test('a time to live that is off is switched on, or refused where nothing may be changed', async () => {
    const place = await opened()
    const { tables, checking, creating } = await made(place, {}, false)
    await expect(checking.initialize()).rejects.toThrow(/switch it on, on attribute "expires_at"/)
    expect(await timeToLive(place, tables.payloads)).toBe('DISABLED')
    await creating.initialize()
    expect(await timeToLive(place, tables.payloads)).toBe('ENABLED')
    const TimeToLiveSpecification = { Enabled: false, AttributeName: 'expires_at' }
    await place.client.send(
      new UpdateTimeToLiveCommand({ TableName: tables.payloads, TimeToLiveSpecification }),
    )
    await creating.initialize()
    expect(await timeToLive(place, tables.payloads)).toBe('ENABLED')
  })

  test('a time to live that DynamoDB does not change yet, or that is another’s, is refused with what to do', async () => {
    const place = await opened()
    const { creating } = await made(place, {}, false)
    const tooOften = 'Time to live has been modified multiple times within a fixed interval'
    place.fail(
      'UpdateTimeToLiveCommand',
      Object.assign(awsError('ValidationException'), { message: tooOften }),
    )
    await expect(creating.initialize()).rejects.toThrow(/initialize again later/)
    place.answer('DescribeTimeToLiveCommand', () => ({
      TimeToLiveDescription: { TimeToLiveStatus: 'ENABLED', AttributeName: 'ttl' },
    }))
    await expect(creating.initialize()).rejects.toThrow(/is on "ttl", not on "expires_at"/)
  })

  test('keys, their types and indexes have to be those of the definitions', async () => {
    const place = await opened()
    const cases: [Parameters<typeof made>[1], RegExp][] = [
      [
        {
          events: (table) => {
            for (const one of table.AttributeDefinitions ?? [])
              if (one.AttributeName === 'id') one.AttributeType = 'N'
          },
        },
        /lacks \[table: id S HASH\]/,
      ],
      [
        {
          events: (table) => {
            for (const { IndexName, Projection } of table.GlobalSecondaryIndexes ?? []) {
              if (IndexName === 'due' && Projection) {
                Projection.ProjectionType = 'KEYS_ONLY'
                delete Projection.NonKeyAttributes
              }
            }
          },
        },
        /lacks \[state in index due\]/,
      ],
      [
        {
          events: (table) => {
            const closed = table.GlobalSecondaryIndexes?.find(({ IndexName }) => IndexName === 'closed')
            closed?.KeySchema?.pop()
            table.AttributeDefinitions?.pop()
          },
        },
        /lacks \[index closed/,
      ],
    ]
    for (const [changes, message] of cases) {
      const { creating } = await made(place, changes)
      await expect(creating.initialize()).rejects.toThrow(UnsupportedBackendError)
      await expect(creating.initialize()).rejects.toThrow(message)
    }
    const all = await made(place, {
      events: (table) => {
        for (const index of table.GlobalSecondaryIndexes ?? []) index.Projection = { ProjectionType: 'ALL' }
      },
    })
    await all.checking.initialize()
  })

  test('a table that is being updated is used, one that is being created is waited for', async () => {
    const place = await opened()
    for (const status of ['CREATING', 'UPDATING']) {
      place.answer('DescribeTableCommand', async (_, through) => {
        const { Table } = (await through()) as { Table: object }
        return { Table: { ...Table, TableStatus: status } }
      })
    }
    const commands = await place.during(() => place.outbox.initialize())
    const described = commands.filter((command) => command === 'DescribeTableCommand')
    // One look for each table, one before the wait.
    expect(described).toHaveLength(4)
  })

  test('missing and foreign tables are refused', async () => {
    const { client, tables } = await opened()
    const missing = { events: 'missing_events', payloads: 'missing_payloads' }
    const outbox = new DynamoDBAwsSdkOutbox(client, { tables: missing, createTables: false, logger: false })
    const bus = new OutboxEventBus(outbox)
    await expect(outbox.initialize()).rejects.toThrow(NotInitializedError)
    await expect(bus.emit('a', {})).rejects.toThrow(NotInitializedError)
    await expect(bus.start()).rejects.toThrow(NotInitializedError)
    await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toThrow(NotInitializedError)
    const swapped = { events: tables.payloads, payloads: tables.events }
    const foreign = new DynamoDBAwsSdkOutbox(client, { tables: swapped, logger: false })
    await expect(foreign.initialize()).rejects.toThrow(UnsupportedBackendError)
    expect(eventsTable({ tables: { events: 'mine' } })).toMatchObject({ TableName: 'mine' })
  })
})
