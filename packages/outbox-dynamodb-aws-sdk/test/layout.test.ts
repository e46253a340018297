import { GetCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb'
import { ConfigurationError, NewerSchemaError, OutboxEventBus } from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox } from '../src/index.ts'
import { NOTE_ID } from '../src/layout.ts'
import { awsError, event, type Opened, opened, outcome } from './opened.ts'

/** An outbox on the tables of another one, as another process would have it. */
function beside({ client, tables }: Opened, shards: number): DynamoDBAwsSdkOutbox {
  return new DynamoDBAwsSdkOutbox(client, { tables, shards, logger: false, createTables: false })
}

async function note({ client, tables }: Opened): Promise<Record<string, unknown> | undefined> {
  const request = new GetCommand({ TableName: tables.events, Key: { id: NOTE_ID }, ConsistentRead: true })
  return (await client.send(request)).Item
}

/** Events in every one of so many shards. */
const appending = (count: number) => [
  outcome({ append: Array.from({ length: count }, (_, n) => event(`event-${n}`)) }),
]

describe.skipIf(serverUrl() === undefined)('DynamoDB, what processes agree on', () => {
  test('the number of shards is noted, raised by who has more, and kept from who has fewer', async () => {
    const place = await opened({ shards: 2 })
    expect(await note(place)).toEqual({ id: NOTE_ID, version: 2, shards: 2 })
    await beside(place, 8).initialize()
    expect(await note(place)).toMatchObject({ shards: 8 })
    const fewer = beside(place, 4)
    const refused = {
      code: 'OUTBOX_CONFIGURATION',
      option: 'shards',
      message: expect.stringMatching(/\b8\b/),
    }
    await expect(fewer.initialize()).rejects.toMatchObject(refused)
    await expect(new OutboxEventBus(fewer).start()).rejects.toThrow(ConfigurationError)
    await beside(place, 8).initialize()
    expect(await note(place)).toMatchObject({ shards: 8 })
  })

  test('who emits into more shards without initializing notes them first; who emits into fewer may', async () => {
    const place = await opened({ shards: 1 })
    const wider = beside(place, 8)
    await wider.storage.write(appending(20))
    expect(await note(place)).toMatchObject({ shards: 8 })
    await expect(new OutboxEventBus(beside(place, 1)).start()).rejects.toThrow(ConfigurationError)
    await beside(place, 1).storage.write([outcome({ append: [event('narrow')] })])
    expect(await takeDue(beside(place, 8).storage, 100, 60_000)).toHaveLength(21)
    const enlisting = beside(place, 16)
    await enlisting.enlist(enlisting.begin(), async () => {})
    expect(await note(place)).toMatchObject({ shards: 16 })
    const another = beside(place, 32)
    await another.transaction(() => new OutboxEventBus(another).emit('a', {}))
    expect(await note(place)).toMatchObject({ shards: 32 })
  })

  test('a running worker finds the shards that another process adds', async () => {
    const place = await opened({ shards: 1 })
    const { storage } = place.outbox
    await takeDue(storage, 1, 60_000)
    await beside(place, 8).storage.write(appending(20))
    await storage.purge(1)
    await until(async () => (await place.outbox.stats()).due === 20)
    expect(await takeDue(storage, 100, 60_000)).toHaveLength(20)
  })

  test('two that note their shards at once note the higher number', async () => {
    const place = await opened({ shards: 1 })
    const attempts = await Promise.allSettled(
      [2, 16, 4, 8].map((shards) => beside(place, shards).initialize()),
    )
    expect(await note(place)).toMatchObject({ shards: 16 })
    expect(attempts[1]?.status).toBe('fulfilled')
  })

  test('tables of a newer version are refused, and nothing is changed', async () => {
    const place = await opened({ shards: 2 })
    await place.client.send(
      new UpdateCommand({
        TableName: place.tables.events,
        Key: { id: NOTE_ID },
        UpdateExpression: 'SET version = :version',
        ExpressionAttributeValues: { ':version': 3 },
      }),
    )
    const older = beside(place, 8)
    await expect(older.initialize()).rejects.toThrow(NewerSchemaError)
    await expect(new OutboxEventBus(older).start()).rejects.toThrow(NewerSchemaError)
    await expect(new OutboxEventBus(older).emit('a', {})).rejects.toThrow(NewerSchemaError)
    expect(await note(place)).toEqual({ id: NOTE_ID, version: 3, shards: 2 })
    // One that has begun before goes on.
    await new OutboxEventBus(place.outbox).emit('a', {})
    expect(await takeDue(place.outbox.storage, 1, 60_000)).toHaveLength(1)
  })

  test('the note is asked for once, and again where that failed', async () => {
    const place = await opened({ shards: 4 })
    const other = beside(place, 4)
    place.fail('GetCommand', awsError('ThrottlingException'))
    await expect(takeDue(other.storage, 1, 60_000)).rejects.toMatchObject({ transient: true })
    const asked = async (work: () => Promise<unknown>) =>
      (await place.during(work)).filter((command) => command === 'GetCommand').length
    expect(await asked(() => takeDue(other.storage, 1, 60_000))).toBe(1)
    expect(await asked(() => takeDue(other.storage, 1, 60_000))).toBe(0)
    expect(await asked(() => other.storage.write(appending(1)))).toBe(0)
  })

  test('who may not read the note can still emit', async () => {
    const place = await opened({ shards: 4 })
    place.fail('GetCommand', awsError('AccessDeniedException'))
    const emitting = new OutboxEventBus(beside(place, 4))
    await emitting.emit('a', {})
    expect(await place.during(() => emitting.emit('a', {}))).toEqual(['TransactWriteCommand'])
    expect(await place.outbox.stats()).toMatchObject({ due: 2 })
  })
})
