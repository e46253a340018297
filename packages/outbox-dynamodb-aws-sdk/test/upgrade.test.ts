import { GetCommand, PutCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox } from '../src/index.ts'
import { NOTE_ID } from '../src/layout.ts'
import { awsError, completing, event, eventItems, type Opened, opened, outcome } from './opened.ts'

/** An event's item as version 1 writes it. */
function oldItem(id: string, more: object = {}): Record<string, unknown> {
  const now = Date.now()
  return {
    ...{ id, type: 'old.type', body: '{}', headers: '{}', created: now, visible: now },
    ...{ attempt: 0, uncounted: 0, state: 'waiting', due_shard: '0' },
    ...more,
  }
}

function put({ client, tables }: Opened, Item: Record<string, unknown>): Promise<unknown> {
  return client.send(new PutCommand({ TableName: tables.events, Item }))
}

/** Tables as version 1 leaves them, with an event in each state. */
async function ofVersionOne(shards: number): Promise<Opened> {
  const place = await opened()
  const later = Date.now() + 60_000
  await place.client.send(
    new UpdateCommand({
      ...{ TableName: place.tables.events, Key: { id: NOTE_ID } },
      UpdateExpression: 'SET version = :one, shards = :shards',
      ExpressionAttributeValues: { ':one': 1, ':shards': shards },
    }),
  )
  const { due_shard: _, ...closed } = oldItem('dead', { state: 'dead', attempt: 1 })
  for (const item of [
    oldItem('waiting', { due_shard: `${shards - 1}` }),
    oldItem('leased', { state: 'leased', attempt: 1, visible: later }),
    { ...closed, closed: 'dead', closed_at: 1, error: 'x' },
  ])
    await put(place, item)
  return place
}

function beside({ client, tables }: Opened, options: { shards?: number } = {}): DynamoDBAwsSdkOutbox {
  return new DynamoDBAwsSdkOutbox(client, { tables, logger: false, createTables: false, ...options })
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, tables of version 1', () => {
  test('are taken over with what is in them: waiting, leased and dead', async () => {
    const place = await ofVersionOne(4)
    const outbox = beside(place)
    await outbox.initialize()
    const note = new GetCommand({ TableName: place.tables.events, Key: { id: NOTE_ID } })
    expect((await place.client.send(note)).Item).toMatchObject({ version: 2, shards: 4 })
    const { storage } = outbox
    expect((await storage.waiting()).map(({ address }) => address)).toEqual(['old.type'])
    expect(await takeDue(storage, 10, 60_000)).toMatchObject([
      { id: 'waiting', type: 'old.type', address: 'old.type', key: null, attempt: 1 },
    ])
    const held = { id: 'leased', attempt: 1 }
    expect(await storage.extend([held], 60_000)).toEqual([])
    expect(await storage.write([completing(held)])).toEqual([{ status: 'applied' }])
    expect((await storage.listDead({ limit: 10 })).events).toMatchObject([
      { id: 'dead', address: 'old.type', key: null, waitingBehind: 0 },
    ])
    expect(await outbox.deadLetters.retry(['dead'])).toBe(1)
    expect(await takeDue(storage, 10, 60_000)).toMatchObject([{ id: 'dead', attempt: 2, uncounted: 1 }])
  })

  test('what processes of that version write until they end is found by the next purge', async () => {
    const place = await ofVersionOne(1)
    const outbox = beside(place)
    await outbox.initialize()
    await put(place, oldItem('late', { type: 'late.type' }))
    await outbox.storage.purge(10, { background: true })
    const leased = await takeDue(outbox.storage, 10, 60_000)
    expect(leased.map(({ id }) => id).toSorted()).toEqual(['late', 'waiting'])
  })

  test('who may not look for what is to be moved initializes all the same', async () => {
    const place = await ofVersionOne(1)
    place.fail('QueryCommand', awsError('AccessDeniedException'))
    await beside(place).initialize()
    expect(await place.outbox.stats()).toMatchObject({ due: 0, dead: 1 })
    await beside(place).initialize()
    expect(await place.outbox.stats()).toMatchObject({ due: 1, dead: 1 })
  })

  test('new tables are asked nothing for it', async () => {
    const place = await opened({ shards: 1 })
    const purging = () => place.outbox.storage.purge(10, { background: true })
    expect(await place.during(purging)).toEqual(['GetCommand', 'QueryCommand'])
  })

  test('who sets no number of shards takes over the one that is noted, for reading and writing', async () => {
    const place = await opened({ shards: 8 })
    const outbox = beside(place)
    await outbox.initialize()
    const ids = Array.from({ length: 60 }, (_, n) => `${n}`)
    await outbox.storage.write([outcome({ append: ids.map((id) => event(id)) })])
    const shards = new Set((await eventItems(place.client, place.tables)).map(({ due_shard }) => due_shard))
    expect(shards.size).toBe(8)
    expect(await takeDue(outbox.storage, 100, 60_000)).toHaveLength(60)
    const wider = beside(place, { shards: 16 })
    await wider.initialize()
    await outbox.storage.purge(1, { background: true })
    expect(await place.during(() => outbox.storage.waiting())).toHaveLength(17)
  })
})
