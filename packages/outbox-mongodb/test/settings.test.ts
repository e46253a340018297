import { type ClientSession, MongoClient, type MongoClientOptions } from 'mongodb'
import { InvalidClaimIdError, UnsupportedBackendError } from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { countConnections } from './backend.ts'
import { cleanups, completing, event, opened, outcome } from './opened.ts'

const url = serverUrl()

const CLIENTS: [string, MongoClientOptions][] = [
  ['reads from secondaries', { readPreference: 'secondaryPreferred' }],
  ['reads linearizably', { readConcern: { level: 'linearizable' } }],
  ['does not wait for writes', { writeConcern: { w: 0 } }],
  ['retries nothing', { retryWrites: false, retryReads: false }],
  ['gets wrapped values', { promoteValues: false }],
  ['gets raw documents', { raw: true }],
  ['gets longs as BigInt', { useBigInt64: true }],
  ['gets longs as objects', { promoteLongs: false }],
  ['gets binary as Buffer', { promoteBuffers: true }],
  ['gets nothing promoted', { promoteValues: false, promoteLongs: false, promoteBuffers: false }],
  ['gets regular expressions as BSON', { bsonRegExp: true }],
  ['drops undefined values', { ignoreUndefined: true }],
  ['stores functions', { serializeFunctions: true }],
  ['makes ids of its own', { pkFactory: { createPk: () => 'same' } }],
  ['reads snapshots', { readConcern: { level: 'snapshot' } }],
  ['compresses', { compressors: ['zlib'] }],
  ['asks for the strict API', { serverApi: { version: '1', strict: true, deprecationErrors: true } }],
  ['limits the time of every call', { timeoutMS: 30_000 }],
  ['checks no text', { enableUtf8Validation: false }],
  ['leaves ids to the server', { forceServerObjectId: true }],
  ['waits for one member only', { writeConcern: { w: 1, journal: false } }],
  [
    'reads from secondaries that are not far behind',
    { readPreference: 'secondary', maxStalenessSeconds: 90 },
  ],
  ['reads what a majority has', { readConcern: { level: 'majority' }, retryReads: false }],
  ['has one connection', { maxPoolSize: 1, waitQueueTimeoutMS: 5_000 }],
]

/** Gives transactions the time that they have by default; the server that the tests start has less. */
async function patience(client: MongoClient): Promise<void> {
  const admin = client.db('admin')
  const found = await admin.command({ getParameter: 1, transactionLifetimeLimitSeconds: 1 })
  const { transactionLifetimeLimitSeconds } = found
  cleanups.push(() => admin.command({ setParameter: 1, transactionLifetimeLimitSeconds }))
  await admin.command({ setParameter: 1, transactionLifetimeLimitSeconds: 60 })
}

describe.skipIf(url === undefined)('MongoDB, set up otherwise', () => {
  test.each(CLIENTS)('a client that %s is as good as any', async (_, clientOptions) => {
    const { client, outbox, bus } = await opened({}, clientOptions)
    const { storage } = outbox
    const store = outbox.sagaStore('1h')
    await outbox.initialize()
    await outbox.transaction(async () => {
      await store.put('claim', Uint8Array.of(1, 2, 3))
      expect([...((await store.get('claim')) ?? [])]).toEqual([1, 2, 3])
      await bus.emit('a', { n: 1 }, { id: 'order-1', headers: { 'x.y': 'z' } })
    })
    const session = client.startSession()
    // What a transaction may not have of its client, its user has to set; the read preference is left as it is.
    session.startTransaction({ readConcern: { level: 'snapshot' }, writeConcern: { w: 'majority' } })
    await outbox.enlist(session, async () => {
      expect([...((await store.get('claim')) ?? [])]).toEqual([1, 2, 3])
      await bus.emit('a', { n: 1 }, { id: 'order-1' })
    })
    await session.commitTransaction()
    await session.endSession()
    await bus.emit('a', { n: 1 }, { id: 'order-1' })
    expect([...((await store.get('claim')) ?? [])]).toEqual([1, 2, 3])
    expect(await outbox.stats()).toMatchObject({ due: 1, oldestDueMs: expect.any(Number) })
    const [leased] = await takeDue(storage, 10, 60_000)
    expect(leased).toEqual({
      ...{ id: 'order-1', type: 'a', address: 'a', key: null, body: '{"n":1}', headers: { 'x.y': 'z' } },
      ...{ attempt: 1, uncounted: 0, createdAt: expect.any(Number), leasedAt: expect.any(Number) },
    })
    const bury = { kind: 'bury', id: 'order-1', attempt: 1, error: 'because' } as const
    expect(await storage.write([outcome({ settle: bury })])).toEqual([{ status: 'applied' }])
    const { events } = await storage.listDead({ limit: 10 })
    expect(events).toMatchObject([{ attempt: 1, error: 'because', diedAt: expect.any(Number) }])
    expect(await storage.purge(10)).toEqual({ events: 0, payloads: 0 })
    const keyed = ['k1', 'k2', 'l1', 'l2'].map((id) => event(id, { key: id.slice(0, 1) }))
    await storage.write([outcome({ append: keyed })])
    await storage.write([outcome({ append: [event('k3', { key: 'k' })] })])
    for (const ids of [['k1', 'l1'], ['k2', 'l2'], ['k3']]) {
      const taken = await takeDue(storage, 10, 60_000)
      expect(taken.map(({ id }) => id).sort()).toEqual(ids)
      for (const one of completing(taken)) await storage.write([one])
    }
    expect(await storage.advance?.(['k', 'l'])).toEqual({ events: 0, busy: [] })
  })

  test('the largest event and the largest payload fit, alone and together', async () => {
    const { client, outbox } = await opened()
    await patience(client)
    const { storage } = outbox
    const { eventBytes, payloadBytes } = storage.limits
    const data = Buffer.alloc(payloadBytes, 7)
    const put = (id: string) => ({ id, data, expires: { inMs: 60_000 } })
    const body = JSON.stringify('x'.repeat(eventBytes - 2))
    const headers = { note: 'y'.repeat(8_000) }
    await storage.write([outcome({ put: [put('alone')] })])
    await storage.write([outcome({ append: [event('big', { body, headers })], put: [put('beside')] })])
    for (const id of ['alone', 'beside']) {
      expect(data.equals((await storage.getPayload(id)) ?? Buffer.of())).toBe(true)
    }
    const leased = await takeDue(storage, 10, 60_000)
    expect(leased[0]?.body.length).toBe(body.length)
    const [first] = leased
    const bury = { kind: 'bury', id: 'big', attempt: first?.attempt ?? 0, error: 'e'.repeat(2_000) } as const
    expect(await storage.write([outcome({ settle: bury })])).toEqual([{ status: 'applied' }])
  })

  test('a batch that is larger than a document is still one transaction', async () => {
    const { client, outbox } = await opened()
    const { storage } = outbox
    await patience(client)
    const data = Buffer.alloc(8_000_000, 7)
    const ids = ['a', 'b', 'c']
    const batch = ids.map((id) =>
      outcome({ append: [event(id)], put: [{ id, data, expires: { inMs: 600_000 } }] }),
    )
    expect(await storage.write(batch)).toEqual(ids.map(() => ({ status: 'applied' })))
    expect(data.equals((await storage.getPayload('c')) ?? Buffer.of())).toBe(true)
    expect(await outbox.stats()).toMatchObject({ due: 3 })
  })

  test('a claim id that is an operator never reaches the database', async () => {
    const { outbox, during } = await opened()
    const store = outbox.sagaStore('1h')
    await store.put('secret', Uint8Array.of(1))
    const commands = await during(async () => {
      const hostile = { $gt: '' } as unknown as string
      await expect(store.get(hostile)).rejects.toThrow(InvalidClaimIdError)
      await expect(store.delete(hostile)).rejects.toThrow(InvalidClaimIdError)
    })
    expect(commands).toEqual([])
  })

  test('text that looks like an expression or an operator is stored as it is', async () => {
    const { outbox } = await opened()
    const { storage } = outbox
    const strange = { type: '$$ROOT', body: '"$body"', headers: { a: '$$NOW', b: '{"$gt":""}' } }
    await storage.write([outcome({ append: [event('$_id', strange)] })])
    const [leased] = await takeDue(storage, 1, 60_000)
    expect(leased).toMatchObject({ id: '$_id', ...strange })
    const bury = { kind: 'bury', id: '$_id', attempt: 1, error: '$$REMOVE' } as const
    await storage.write([outcome({ settle: bury })])
    expect((await storage.listDead({ limit: 1, type: '$$ROOT' })).events).toMatchObject([
      { error: '$$REMOVE' },
    ])
  })

  test('uses the connections of its client and no other', async () => {
    const size = 3
    const pool = { minPoolSize: size, maxPoolSize: size }
    const { database, outbox, bus } = await opened({}, pool)
    const counted = await new MongoClient(url ?? '').connect()
    cleanups.push(() => counted.close())
    const connections = () => countConnections(counted, database)
    await until(async () => (await connections()) >= size)
    let most = 0
    bus.on('a', () => {})
    await bus.start()
    for (let round = 0; round < 10; round++) {
      const work = Array.from({ length: 20 }, (_, n) =>
        outbox.transaction(async () => {
          await bus.emit('a', {})
          await outbox.sagaStore('1h').put(`claim-${round}-${n}`, Uint8Array.of(1))
        }),
      )
      most = Math.max(most, await connections())
      await Promise.all(work)
    }
    await bus.stop()
    // The driver watches the server through two of its own beside the pool.
    expect(most).toBeGreaterThanOrEqual(size)
    expect(most).toBeLessThanOrEqual(size + 2)
  })

  test('a TTL that was changed behind our back is refused at start', async () => {
    const { db, outbox } = await opened()
    const index = { keyPattern: { expires_at: 1 }, expireAfterSeconds: 86_400 }
    await db.command({ collMod: 'saga_store', index })
    await expect(outbox.initialize()).rejects.toThrow(UnsupportedBackendError)
  })

  test('two outboxes share a database by names of their own', async () => {
    const { client, database, db, bus, outbox } = await opened()
    const tables = { events: 'other_events', payloads: 'other_payloads' }
    const other = new MongoDBOutbox<ClientSession>(client, { database, tables, logger: false })
    await other.initialize()
    await bus.emit('a', {})
    await other.sagaStore('1h').put('claim', Uint8Array.of(1))
    expect(await other.stats()).toMatchObject({ due: 0 })
    expect(await outbox.sagaStore('1h').get('claim')).toBeUndefined()
    expect(await db.collection('other_payloads').countDocuments()).toBe(1)
  })
})
