import { DescribeTimeToLiveCommand, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb'
import { GetCommand, ScanCommand, type TranslateConfig } from '@aws-sdk/lib-dynamodb'
import { ForeignTransactionError, OutboxEventBus, TransactionClosedError } from 'outbox-core'
import { sleep, takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import type { DynamoDBTransaction } from '../src/index.ts'
import { completing, event, eventItems, lease, opened, outcome, payload } from './opened.ts'

type Wrap = (text: string) => never

const CLIENTS: [string, TranslateConfig][] = [
  ['sets nothing', {}],
  ['drops undefined values', { marshallOptions: { removeUndefinedValues: true } }],
  ['stores empty values as NULL', { marshallOptions: { convertEmptyValues: true } }],
  ['stores class instances', { marshallOptions: { convertClassInstanceToMap: true } }],
  ['gets wrapped numbers', { unmarshallOptions: { wrapNumbers: true } }],
  [
    'gets numbers as BigInt',
    { unmarshallOptions: { wrapNumbers: ((text: string) => BigInt(text)) as Wrap } },
  ],
  ['gets numbers as text', { unmarshallOptions: { wrapNumbers: ((text: string) => text) as Wrap } }],
  [
    'gets numbers as objects of its own',
    { unmarshallOptions: { wrapNumbers: ((text: string) => ({ text })) as Wrap } },
  ],
  [
    'has every option set',
    {
      marshallOptions: {
        ...{ convertEmptyValues: true, removeUndefinedValues: false, convertClassInstanceToMap: true },
        ...{ convertTopLevelContainer: true, allowImpreciseNumbers: true },
      },
      unmarshallOptions: { wrapNumbers: true, convertWithoutMapWrapper: true },
    },
  ],
]

describe.skipIf(serverUrl() === undefined)('DynamoDB', () => {
  test('requests: emit 1, with a claim 1, settling a saga step 1, an idle poll one for each address and shard', async () => {
    const place = await opened({ shards: 3 })
    const { outbox, bus, during } = place
    const { storage } = outbox
    expect(await during(() => bus.emit('a', {}))).toEqual(['PutCommand', 'TransactWriteCommand'])
    expect(await during(() => bus.emit('a', {}))).toEqual(['TransactWriteCommand'])
    expect(await lease(place, 1)).toHaveLength(1)
    const [leased = { id: '', attempt: 0 }] = await takeDue(storage, 1, 60_000)
    const step = completing(leased, {
      append: [event('next', { due: { inMs: 60_000 } })],
      put: [payload('new', Uint8Array.of(1))],
      remove: ['old'],
    })
    expect(await during(() => storage.write([step]))).toEqual(['TransactWriteCommand'])
    const poll = ['QueryCommand', 'QueryCommand', 'QueryCommand']
    expect(await during(() => lease(place, 10))).toEqual(poll)
    const transaction = () =>
      outbox.transaction(async () => {
        await bus.emit('a', {})
        await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
      })
    expect(await during(transaction)).toEqual(['TransactWriteCommand'])
    expect(await during(() => lease(place, 10))).toEqual([...poll, 'UpdateCommand'])
  })

  test('the longer nothing is due, the fewer requests a dispatcher makes', async () => {
    // Turned by hand, so that no machine is too slow for it; the requests are real.
    let now = Date.now()
    const timers = new Map<() => void, number>()
    const after = (ms: number, callback: () => void): (() => void) => {
      timers.set(callback, now + ms)
      return () => void timers.delete(callback)
    }
    const pausing = () => [...timers].find(([, at]) => at <= now + 1_000)
    const { outbox, during } = await opened({
      shards: 2,
      clock: { now: () => now, elapsed: () => now, after },
    })
    // Its deadlines are shares of the lease: these are farther off than any pause.
    const bus = new OutboxEventBus(outbox, { lease: '10m' })
    bus.on('a', () => {})
    await bus.start()
    const pauses: number[] = []
    for (let polls = 0; polls < 10; polls++) {
      await until(() => pausing() !== undefined)
      const [wakeUp = () => {}, at = now] = pausing() ?? []
      pauses.push(at - now)
      timers.delete(wakeUp)
      now = at
      const commands = await during(async () => {
        wakeUp()
        await until(() => pausing() !== undefined)
      })
      expect(commands).toEqual(['QueryCommand', 'QueryCommand'])
    }
    expect(pauses).toEqual([10, 20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000])
    await bus.stop()
  })

  test('a payload is a B attribute with a time to live in whole seconds', async () => {
    const { client, tables, outbox } = await opened()
    const expiresAt = new Date(Date.now() + 90_500)
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1, 2, 3), expiresAt)
    const { Item } = await client.send(new GetCommand({ TableName: tables.payloads, Key: { id: 'claim' } }))
    expect(Item?.['data']).toBeInstanceOf(Uint8Array)
    expect(Item?.['expires_at']).toBe(Math.ceil(expiresAt.getTime() / 1000))
    const ttl = await client.send(new DescribeTimeToLiveCommand({ TableName: tables.payloads }))
    expect(ttl.TimeToLiveDescription).toMatchObject({
      TimeToLiveStatus: 'ENABLED',
      AttributeName: 'expires_at',
    })
  })

  test('expired payloads are not handed out while DynamoDB does not delete them', async () => {
    const { client, tables, outbox } = await opened()
    const TimeToLiveSpecification = { Enabled: false, AttributeName: 'expires_at' }
    await client.send(new UpdateTimeToLiveCommand({ TableName: tables.payloads, TimeToLiveSpecification }))
    const store = outbox.sagaStore('1h')
    await store.put('claim', Uint8Array.of(1), new Date(Date.now() + 50))
    await until(async () => (await store.get('claim')) === undefined)
    const count = async () =>
      (await client.send(new ScanCommand({ TableName: tables.payloads, ConsistentRead: true }))).Count
    expect(await count()).toBe(1)
    expect(await store.cleanup()).toBe(1)
    expect(await count()).toBe(0)
  })

  test('events are spread over the shards, and leased by their age, whichever shard they are in', async () => {
    const { client, tables, outbox } = await opened({ shards: 4 })
    const now = Date.now()
    const ids = Array.from({ length: 80 }, (_, age) => `event-${age}`)
    const append = ids.map((id, age) => event(id, { due: { at: now - age * 1_000 } }))
    await outbox.storage.write([outcome({ append })])
    const Items = await eventItems(client, tables)
    const shards = Map.groupBy(Items, ({ due_shard }) => due_shard as string)
    expect([...shards.keys()].toSorted()).toEqual(['a#0', 'a#1', 'a#2', 'a#3'])
    for (const events of shards.values()) expect(events.length).toBeGreaterThan(5)
    const leased: string[] = []
    while (leased.length < 80) leased.push(...(await takeDue(outbox.storage, 7, 60_000)).map(({ id }) => id))
    expect(leased).toEqual(ids.toReversed())
  })

  test('completed events that are kept are spread as well, and purged from every shard', async () => {
    const { client, tables, outbox, bus } = await opened({ shards: 4 })
    const { storage } = outbox
    await bus.emitMany(Array.from({ length: 40 }, () => ({ type: 'a', payload: {} })))
    const leased = await takeDue(storage, 40, 60_000)
    await storage.write(leased.map((lease) => completing(lease, {}, 1)))
    const Items = await eventItems(client, tables)
    expect(new Set(Items.map(({ closed }) => closed)).size).toBe(4)
    await until(async () => (await storage.purge(30)).events > 0)
    await storage.purge(30)
    expect(await eventItems(client, tables)).toEqual([])
  })

  test('what a late index still shows as due is judged by the item itself', async () => {
    const place = await opened({ shards: 1 })
    const { outbox, bus, answer } = place
    const { storage } = outbox
    for (const id of ['held', 'settled', 'due']) await bus.emit('a', {}, { id })
    let stale: unknown
    answer('QueryCommand', async (_, through) => {
      stale = await through()
      return { Items: [] }
    })
    await lease(place, 10)
    // Where nothing was due a moment ago is not asked at once.
    await sleep(20)
    const leased = await lease(place, 2)
    await storage.write(leased.flatMap((event) => (event.id === 'settled' ? completing(event) : [])))
    answer('QueryCommand', () => stale)
    // Two of the three it was shown are gone: it goes on to the next.
    expect((await lease(place, 2)).map(({ id, attempt }) => [id, attempt])).toEqual([['due', 1]])
  })

  test.each(CLIENTS)('a client that %s is as good as any', async (_, translation) => {
    const { outbox, bus } = await opened({ chunkPayloads: true, shards: 2 }, translation)
    const { storage } = outbox
    const store = outbox.sagaStore('1h', { compression: 'none' })
    const large = Buffer.alloc(900_000, 7)
    await outbox.transaction(async () => {
      await bus.emit('a', { n: 1 }, { id: 'order-1', headers: { empty: '' } })
      await store.put('large', large)
      await storage.write([outcome({ put: [payload('none', new Uint8Array())] })])
    })
    await bus.emit('a', { n: 1 }, { id: 'order-1', headers: { empty: '' } })
    await bus.emit('b', {}, { id: 'order-2' })
    expect(large.equals((await store.get('large')) ?? Buffer.of())).toBe(true)
    expect(await storage.getPayload('none')).toHaveLength(0)
    expect(await outbox.stats()).toMatchObject({ due: 2, oldestDueMs: expect.any(Number) })
    const leased = await takeDue(storage, 10, 60_000)
    expect(leased[0]).toEqual({
      ...{ id: 'order-1', type: 'a', address: 'a', key: null, body: '{"n":1}', headers: { empty: '' } },
      ...{ attempt: 1, uncounted: 0, createdAt: expect.any(Number), leasedAt: expect.any(Number) },
    })
    expect(await storage.extend(leased, 60_000)).toEqual([])
    for (const { id, attempt } of leased) {
      await storage.write([outcome({ settle: { kind: 'bury', id, attempt, error: '' } })])
    }
    const first = await storage.listDead({ limit: 1 })
    const second = await storage.listDead({ limit: 1, after: first.next ?? [0, 'none'] })
    expect([...first.events, ...second.events]).toMatchObject([
      { id: 'order-1', attempt: 1, error: '', diedAt: expect.any(Number) },
      { id: 'order-2' },
    ])
    expect((await storage.listDead({ limit: 1, ids: ['order-1', 'order-2'] })).events).toMatchObject([
      { id: 'order-1' },
    ])
    expect(await outbox.deadLetters.retry({ all: true })).toBe(2)
    const again = await takeDue(storage, 10, 60_000)
    expect(again.map(({ attempt, uncounted }) => [attempt, uncounted])).toEqual([
      [2, 1],
      [2, 1],
    ])
    await outbox.transaction(async (tx) => {
      expect(
        await storage.write(
          again.map((lease) => completing(lease, {}, 1)),
          tx,
        ),
      ).toEqual([{ status: 'applied' }, { status: 'applied' }])
    })
    await until(async () => (await storage.purge(10)).events === 2)
    await store.delete('large')
    expect(await store.get('large')).toBeUndefined()
  })

  test('only an open transaction of the outbox can be enlisted', async () => {
    const { outbox } = await opened()
    const enlisted = outbox.enlist({} as DynamoDBTransaction, async () => {})
    await expect(enlisted).rejects.toThrow(ForeignTransactionError)
    let late: DynamoDBTransaction | undefined
    await outbox.transaction(async (tx) => {
      late = tx
    })
    expect(() => late?.put({ TableName: 'x', Item: {} })).toThrow(TransactionClosedError)
  })
})
