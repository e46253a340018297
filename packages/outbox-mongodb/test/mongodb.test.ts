import { randomUUID } from 'node:crypto'
import { type Document, MongoClient } from 'mongodb'
import { MongoClient as MongoClient6 } from 'mongodb6'
import {
  activity,
  ConfigurationError,
  ForeignTransactionError,
  OutboxEventBus,
  routingSlip,
  SagaEngine,
  type SagaEvents,
  TransactionClosedError,
  TransactionMissingError,
  UnsupportedBackendError,
} from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test, vi } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { cleanups, event, lease, opened, outcome } from './opened.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('MongoDB', () => {
  test('counts of commands: emit 1, idle poll 1, lease 3, a settled batch 2 or 1 and its transaction', async () => {
    const { outbox, bus, during } = await opened()
    const { storage } = outbox
    expect(await during(() => bus.emit('a', {}))).toEqual(['update'])
    expect(await during(() => outbox.transaction(() => bus.emit('a', {})))).toEqual([
      'update',
      'commitTransaction',
    ])
    await bus.emitMany(Array.from({ length: 98 }, () => ({ type: 'a', payload: {} })))
    let events: Awaited<ReturnType<typeof storage.lease>> = []
    const leasing = await during(async () => {
      events = await lease(storage, 100)
    })
    expect(leasing).toEqual(['find', 'update', 'find'])
    expect(events).toHaveLength(100)
    const complete = events.map(({ id, attempt }) => ({
      settle: { kind: 'complete', id, attempt, keepMs: 0 } as const,
      append: [],
      put: [],
      remove: [],
    }))
    expect((await during(() => storage.write(complete))).length).toBeLessThanOrEqual(2)
    expect(await during(() => lease(storage, 100))).toEqual(['find'])
    expect(await during(() => storage.waiting())).toEqual(['aggregate'])
    expect(await during(() => storage.keep('gone', 1_000))).toEqual(['update'])
    const looks = await during(() =>
      storage.transaction(async (session) => {
        await storage.listDead({ limit: 10 }, session)
        await storage.stats(session)
      }),
    )
    const counts = ['aggregate', 'aggregate', 'aggregate', 'aggregate']
    expect(looks).toEqual(['find', ...counts, 'commitTransaction'])
  })

  test('dead letters and counts in a transaction are those that it sees', async () => {
    const { outbox } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: [event('a'), event('b')] })])
    const [one] = await takeDue(storage, 1, 60_000)
    const bury = { kind: 'bury', id: one?.id ?? '', attempt: 1, error: 'because' } as const
    await storage.transaction(async (session) => {
      await storage.write([outcome({ settle: bury })], session)
      expect(await storage.stats(session)).toMatchObject({ due: 1, leased: 0, dead: 1 })
      expect((await storage.listDead({ limit: 10 }, session)).events).toMatchObject([{ id: bury.id }])
      expect(await storage.stats()).toMatchObject({ due: 1, leased: 1, dead: 0 })
      expect(await storage.listDead({ limit: 10 })).toEqual({ events: [] })
    })
  })

  test('the moment of a lease is the server’s, whatever the process takes for now', async () => {
    const { outbox } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: [event('a'), event('b')] })])
    vi.useFakeTimers({ toFake: ['Date'], now: 0 })
    try {
      for (const { createdAt, leasedAt } of await takeDue(storage, 2, 3_600_000)) {
        expect(leasedAt).toBeGreaterThanOrEqual(createdAt)
        expect(leasedAt - createdAt).toBeLessThan(60_000)
      }
    } finally {
      vi.useRealTimers()
    }
  })

  test('counts of commands do not grow with the batch', async () => {
    const { outbox, bus, during } = await opened()
    const { storage } = outbox
    await bus.emitMany(Array.from({ length: 400 }, () => ({ type: 'a', payload: {} })))
    let events: Awaited<ReturnType<typeof storage.lease>> = []
    const leasing = await during(async () => {
      events = await lease(storage, 400)
    })
    expect(leasing).toEqual(['find', 'update', 'find'])
    expect(events).toHaveLength(400)
    const one = events.at(-1)
    const stale = events.map(({ id, attempt }) => ({ id, attempt: id === one?.id ? attempt + 1 : attempt }))
    expect(await during(() => storage.extend(stale, 60_000))).toEqual(['update', 'find'])
    const bury = { kind: 'bury', error: 'because' } as const
    await storage.write(
      events.slice(0, 200).map(({ id, attempt }) => outcome({ settle: { ...bury, id, attempt } })),
    )
    expect(await during(() => storage.listDead({ limit: 200 }))).toEqual(['find'])
    const complete = { kind: 'complete', keepMs: 1 } as const
    const kept = events.slice(200).map(({ id, attempt }) => outcome({ settle: { ...complete, id, attempt } }))
    expect(await during(() => storage.write(kept))).toEqual(['update', 'commitTransaction'])
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await during(() => storage.purge(1_000))).toEqual(['find', 'delete', 'find'])
  })

  test('a batch of saga steps takes as many commands as one step', async () => {
    const { outbox, bus, during } = await opened()
    const { storage } = outbox
    await bus.emitMany(Array.from({ length: 50 }, () => ({ type: 'a', payload: {} })))
    const events = await takeDue(storage, 50, 60_000)
    const steps = events.map(({ id, attempt }, n) => ({
      settle: { kind: 'complete', id, attempt, keepMs: 0 } as const,
      append: [event(`next-${n}`)],
      put: [],
      remove: [],
    }))
    expect(await during(() => storage.write(steps))).toEqual(['delete', 'update', 'commitTransaction'])
    expect(await outbox.stats()).toMatchObject({ due: 50, leased: 0 })
    const next = await takeDue(storage, 50, 60_000)
    const claims = next.map(({ id, attempt }, n) => ({
      settle: { kind: 'complete', id, attempt, keepMs: 0 } as const,
      append: [event(`last-${n}`)],
      put: [{ id: `new-${n}`, data: Uint8Array.of(1), expires: { inMs: 60_000 } }],
      remove: [`old-${n}`],
    }))
    // One for each kind of change to each collection.
    const commands = ['delete', 'update', 'delete', 'update', 'commitTransaction']
    expect(await during(() => storage.write(claims))).toEqual(commands)
  })

  test('payloads are binary with a TTL index on the moment they expire', async () => {
    const { db, outbox } = await opened()
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1, 2, 3))
    const [document] = await db.collection('saga_store').find().toArray()
    expect(document?.['data']).toMatchObject({ _bsontype: 'Binary', sub_type: 0 })
    const indexes = await db.collection('saga_store').indexes()
    expect(indexes).toContainEqual(expect.objectContaining({ key: { expires_at: 1 }, expireAfterSeconds: 0 }))
  })

  test('expired payloads are not handed out while MongoDB has not deleted them', async () => {
    const { client, db, outbox } = await opened()
    await client.db('admin').command({ setParameter: 1, ttlMonitorEnabled: false })
    cleanups.push(() => client.db('admin').command({ setParameter: 1, ttlMonitorEnabled: true }))
    const store = outbox.sagaStore('1h')
    await store.put('claim', Uint8Array.of(1), new Date(Date.now() + 50))
    await until(async () => (await store.get('claim')) === undefined)
    expect(await db.collection('saga_store').countDocuments()).toBe(1)
    expect(await store.cleanup()).toBe(1)
    expect(await db.collection('saga_store').countDocuments()).toBe(0)
  })

  test('whatever is looked for is found by an index, past all that is not meant', async () => {
    const { db, client, outbox, bus } = await opened()
    const { storage } = outbox
    const sent: Document[] = []
    client.on('commandStarted', ({ command }) => sent.push(command))
    await bus.emitMany(Array.from({ length: 300 }, () => ({ type: 'a', payload: {} })))
    const events = await takeDue(storage, 300, 60_000)
    const bury = { kind: 'bury', error: 'because' } as const
    const keep = { kind: 'complete', keepMs: 3_600_000 } as const
    const ends = events.slice(0, 200).map(({ id, attempt }, n) => ({ id, attempt, ...(n % 2 ? bury : keep) }))
    await storage.write(ends.map((settle) => outcome({ settle })))
    await storage.write(
      Array.from({ length: 200 }, (_, n) =>
        outcome({ put: [{ id: `p${n}`, data: Uint8Array.of(1), expires: { inMs: 3_600_000 } }] }),
      ),
    )
    await bus.emitMany(Array.from({ length: 5 }, () => ({ type: 'a', payload: {} })))
    const looks: [string, () => Promise<unknown>, number][] = [
      ['lease', () => lease(storage, 3), 3],
      ['purge', () => storage.purge(10), 0],
      ['listDead', () => storage.listDead({ limit: 3 }), 3],
      ['getPayload', () => storage.getPayload('p1'), 1],
    ]
    for (const [name, look, most] of looks) {
      sent.length = 0
      await look()
      for (const command of sent.filter(({ find, update }) => find || update)) {
        const { lsid: _, txnNumber: __, $db: ___, $clusterTime: ____, ...plain } = command
        const plan = await db.command({ explain: plain, verbosity: 'executionStats' })
        expect(JSON.stringify(plan), name).not.toMatch(/"stage":"(COLLSCAN|SORT)"/)
        expect(plan['executionStats'].totalDocsExamined, name).toBeLessThanOrEqual(most)
      }
    }
  })

  test('only a session of this client with an open transaction is one', async () => {
    const { client, outbox, bus } = await opened()
    const session = client.startSession()
    await expect(outbox.enlist(session, async () => {})).rejects.toThrow(TransactionMissingError)
    session.startTransaction()
    await outbox.enlist(session, () => bus.emit('a', {}))
    await session.commitTransaction()
    await session.endSession()
    await expect(outbox.enlist(session, async () => {})).rejects.toThrow(TransactionClosedError)
    const other = await new MongoClient(url ?? '').connect()
    cleanups.push(() => other.close())
    const foreign = other.startSession()
    foreign.startTransaction()
    await expect(outbox.enlist(foreign, async () => {})).rejects.toThrow(ForeignTransactionError)
    await foreign.endSession()
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('names that are none, and indexes in the way, are refused', async () => {
    const { client, db } = await opened()
    for (const events of ['', 'a.b', '$x', 'system.users']) {
      expect(() => new MongoDBOutbox(client, { tables: { events } })).toThrow(ConfigurationError)
    }
    await db.collection('odd').createIndex({ expires_at: 1 }, { expireAfterSeconds: 3600 })
    const odd = new MongoDBOutbox(client, { database: db.databaseName, tables: { payloads: 'odd' } })
    await expect(odd.initialize()).rejects.toThrow(UnsupportedBackendError)
  })

  test('the driver 6 does as well', async () => {
    const client = await new MongoClient6(url ?? '').connect()
    cleanups.push(() => client.close())
    const database = `t${randomUUID().replaceAll('-', '').slice(0, 20)}`
    cleanups.push(() => client.db(database).dropDatabase())
    const outbox = new MongoDBOutbox(client, { database, logger: false })
    const bus = new OutboxEventBus<SagaEvents>(outbox)
    const step = activity('step', { execute: () => {} })
    const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step] })
    bus.on('saga.completed', () => {})
    await outbox.initialize()
    await bus.start()
    await Promise.all([
      bus.waitFor('saga.completed'),
      outbox.transaction(async (session) => {
        await client.db(database).collection('orders').insertOne({ id: 1 }, { session })
        await engine.emit(
          routingSlip('test')
            .variables({ pad: 'x'.repeat(20_000) })
            .add(step, {}),
        )
      }),
    ])
    await bus.stop()
    expect(await client.db(database).collection('saga_store').countDocuments()).toBe(0)
  })
})
