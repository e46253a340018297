import { GetCommand } from '@aws-sdk/lib-dynamodb'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { completing, event, opened, outcome } from './opened.ts'

describe.skipIf(serverUrl() === undefined)('DynamoDB, keeping', () => {
  test('to keep a completed event is one request on a condition, whatever shard it is in', async () => {
    let now = 1_700_000_000_000
    const { client, tables, outbox, during } = await opened({ shards: 3, clock: fixedClock(() => now) })
    const { storage } = outbox
    const ids = Array.from({ length: 9 }, (_, n) => `event-${n}`)
    await storage.write([outcome({ append: ids.map((id) => event(id)) })])
    const leased = await takeDue(storage, 9, 60_000)
    expect(leased.map(({ leasedAt, createdAt }) => [leasedAt, createdAt])).toEqual(Array(9).fill([now, now]))
    await storage.write(leased.map((lease) => completing(lease, {}, 1_000)))
    now += 500
    expect(await during(() => storage.keep('event-0', 1_000))).toEqual(['UpdateCommand'])
    expect(await during(() => storage.keep('none', 1_000))).toEqual(['UpdateCommand'])
    now += 600
    expect((await storage.purge(100)).events).toBe(8)
    const { Item } = await client.send(new GetCommand({ TableName: tables.events, Key: { id: 'event-0' } }))
    expect(Item).toMatchObject({ state: 'done', closed_at: 1_700_000_001_500 })
    now += 400
    expect((await storage.purge(100)).events).toBe(1)
  })

  test('to keep an event that is not completed changes nothing of it', async () => {
    const { client, tables, outbox } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: ['dead', 'leased'].map((id) => event(id)) })])
    await takeDue(storage, 2, 60_000)
    await storage.write([
      outcome({ settle: { kind: 'bury', id: 'dead', attempt: 1, error: 'because' } }),
      outcome({ append: [event('waiting')] }),
    ])
    const read = async (id: string) =>
      (await client.send(new GetCommand({ TableName: tables.events, Key: { id }, ConsistentRead: true })))
        .Item
    for (const id of ['dead', 'leased', 'waiting']) {
      const before = await read(id)
      await storage.keep(id, 3_600_000)
      expect(await read(id)).toEqual({ ...before, state: id })
    }
  })
})

function fixedClock(now: () => number) {
  return { now, elapsed: now, after: () => () => {} }
}
