import { randomUUID } from 'node:crypto'
import { Collection, MongoClient } from 'mongodb'
import {
  StorageError,
  TransactionClosedError,
  TransactionTimeoutError,
  UnknownOutcomeError,
} from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test, vi } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { cleanups, completing, event, lease, opened, outcome, takesFailpoints } from './opened.ts'

const url = serverUrl()
const failpoints = url !== undefined && (await takesFailpoints(url))

describe.skipIf(!failpoints)('MongoDB, failing', () => {
  test('the callback runs again after a passing error, and nothing is written twice', async () => {
    const { db, outbox, bus, failing } = await opened()
    await db.createCollection('orders')
    await failing(['update'], 1, { errorCode: 112, errorLabels: ['TransientTransactionError'] })
    let runs = 0
    await outbox.transaction(async (session) => {
      runs++
      await db.collection('orders').insertOne({ n: runs }, { session })
      await bus.emit('a', {})
      await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
    })
    expect(runs).toBe(2)
    expect(await db.collection('orders').find().toArray()).toMatchObject([{ n: 2 }])
    expect(await db.collection('outbox_events').countDocuments()).toBe(1)
    expect(await db.collection('saga_store').countDocuments()).toBe(1)
  })

  test('transactions that change the same document run one after the other, each with its event', async () => {
    const { db, outbox, bus } = await opened()
    const stock = db.collection<{ _id: string; sold: number }>('stock')
    await stock.insertOne({ _id: 'chai', sold: 0 })
    const sell = () =>
      outbox.transaction(async (session) => {
        const chai = await stock.findOne({ _id: 'chai' }, { session })
        await bus.emit('sold', { n: chai?.sold })
        await stock.updateOne({ _id: 'chai' }, { $set: { sold: (chai?.sold ?? 0) + 1 } }, { session })
      })
    await Promise.all([sell(), sell(), sell(), sell()])
    expect(await stock.findOne()).toMatchObject({ sold: 4 })
    const bodies = (await db.collection('outbox_events').find().toArray()).map(({ body }) => body)
    expect(bodies.sort()).toEqual(['{"n":0}', '{"n":1}', '{"n":2}', '{"n":3}'])
  })

  test('a commit whose answer is lost for good is an unknown outcome', async () => {
    const { outbox, bus, failing } = await opened()
    // The driver repeats a commit by itself, except after this error.
    await failing(['commitTransaction'], 1, {
      errorCode: 50,
      errorLabels: ['UnknownTransactionCommitResult'],
    })
    await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toThrow(UnknownOutcomeError)
  })

  test('a commit that the server refuses was none', async () => {
    const { db, outbox, bus, failing } = await opened()
    await failing(['commitTransaction'], 1, { errorCode: 20 })
    const failed = outbox.transaction(() => bus.emit('a', {}))
    await expect(failed).rejects.toMatchObject({ name: 'StorageError', transient: false })
    expect(await db.collection('outbox_events').countDocuments()).toBe(0)
  })

  test('a transaction that took too long for the server is a timeout with what to do', async () => {
    const { db, outbox, bus, failing } = await opened()
    await failing(['commitTransaction'], 1, { errorCode: 290 })
    const failed = outbox.transaction(() => bus.emit('a', {}))
    await expect(failed).rejects.toThrow(TransactionTimeoutError)
    await expect(failed).rejects.toThrow(/transactionLifetimeLimitSeconds/)
    expect(await db.collection('outbox_events').countDocuments()).toBe(0)
  })

  test('a commit whose connection breaks is repeated by the driver, and happens once', async () => {
    const { db, outbox, bus, failing } = await opened()
    await failing(['commitTransaction'], 1, { closeConnection: true })
    let runs = 0
    await outbox.transaction(() => {
      runs++
      return bus.emit('a', {})
    })
    expect(runs).toBe(1)
    expect(await db.collection('outbox_events').countDocuments()).toBe(1)
  })

  test.each([
    [
      'a socket’s own error, which the driver lets through',
      { name: 'Error', code: 'ECONNRESET', syscall: 'write' },
    ],
    ['a call that the server’s monitor cut short', { name: 'PoolClearedOnNetworkError' }],
  ])('%s is an unknown outcome of a write, and a passing error of a read', async (_, properties) => {
    const { outbox } = await opened()
    const reset = Object.assign(new Error('cut'), properties)
    vi.spyOn(Collection.prototype, 'updateOne').mockRejectedValueOnce(reset)
    const written = outbox.storage.write([outcome({ append: [event('a')] })])
    await expect(written).rejects.toThrow(UnknownOutcomeError)
    vi.spyOn(Collection.prototype, 'find').mockImplementationOnce(() => {
      throw reset
    })
    await expect(lease(outbox.storage, 1)).rejects.toMatchObject({ transient: true })
    vi.restoreAllMocks()
  })

  test('an event that is repeated while its first one is being completed is no other event', async () => {
    const { db, bus } = await opened()
    const events = db.collection<{ _id: string }>('outbox_events')
    await bus.emit('a', 1, { id: 'chosen' })
    const { find } = Collection.prototype
    vi.spyOn(Collection.prototype, 'find').mockImplementationOnce(function (
      this: Collection,
      ...parameters: unknown[]
    ) {
      const found = find.apply(this, parameters as never)
      const toArray = found.toArray.bind(found)
      found.toArray = async () => {
        await events.deleteOne({ _id: 'chosen' })
        return toArray()
      }
      return found
    } as typeof find)
    await bus.emit('a', 1, { id: 'chosen' })
    vi.restoreAllMocks()
    expect(await events.countDocuments()).toBe(1)
  })

  test('a write that no majority confirmed is an unknown outcome: it is there', async () => {
    const { db, outbox, failing } = await opened()
    const writeConcernError = { code: 64, errmsg: 'waiting for replication timed out' }
    await failing(['update'], 1, { writeConcernError })
    const written = outbox.storage.write([outcome({ append: [event('a')] })])
    await expect(written).rejects.toThrow(UnknownOutcomeError)
    expect(await db.collection('outbox_events').countDocuments()).toBe(1)
  })

  test.each([
    ['an append', outcome({ append: [event('new')] })],
    ['a put', outcome({ put: [{ id: 'p', data: Uint8Array.of(1), expires: { inMs: 60_000 } }] })],
    ['a removal', outcome({ remove: ['p'] })],
    ['a retry', undefined],
    ['all at once', outcome({ append: [event('new'), event('newer')], put: [], remove: ['p', 'q'] })],
  ])('the driver repeats %s whose connection broke, and it is applied once', async (_, given) => {
    const { outbox, failing } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: [event('held')] })])
    const [held] = await takeDue(storage, 1, 60_000)
    const retry = { kind: 'retry', delayMs: 60_000, error: null, counted: true } as const
    const single = given ?? outcome({ settle: { ...retry, id: 'held', attempt: held?.attempt ?? 0 } })
    await failing(['update', 'delete'], 1, { closeConnection: true })
    expect(await storage.write([single])).toEqual([{ status: 'applied' }])
  })

  test('of a batch, an event that went to another worker meanwhile is lost, and only that', async () => {
    const { client, db, outbox, failing } = await opened()
    const { storage } = outbox
    const ids = ['a', 'b', 'c']
    await storage.write([outcome({ append: ids.map((id) => event(id)) })])
    const leased = await takeDue(storage, 3, 60_000)
    const next = { append: [event('after-b', { due: { inMs: 60_000 } })] }
    const batch = completing(leased).map((one) => (one.settle?.id === 'b' ? { ...one, ...next } : one))
    await failing(['delete'], 1, { blockConnection: true, blockTimeMS: 500 })
    const begun = new Promise((resolve) =>
      client.on('commandStarted', ({ commandName }) => commandName === 'delete' && resolve(undefined)),
    )
    const writing = storage.write(batch)
    await begun
    await db.collection<{ _id: string }>('outbox_events').updateOne({ _id: 'b' }, { $inc: { attempt: 1 } })
    expect(await writing).toEqual(leased.map(({ id }) => ({ status: id === 'b' ? 'lost' : 'applied' })))
    expect(await db.collection('outbox_events').find().toArray()).toMatchObject([{ _id: 'b', attempt: 2 }])
  })

  test('a lease whose look at what waits behind it fails is a lease all the same', async () => {
    const { outbox, failing } = await opened()
    const { storage } = outbox
    await storage.write(['1', '2'].map((id) => outcome({ append: [event(id, { key: 'k' })] })))
    await failing(['aggregate'], 2, { errorCode: 10107 })
    const addresses = [{ address: 'a', limit: 10 }]
    const [first] = await storage.lease({ limit: 10, leaseMs: 60_000, behind: 10, addresses })
    expect(first).toMatchObject({ id: '1', attempt: 1 })
    expect(first?.behind).toBeUndefined()
  })

  test('a dispatcher goes on by itself through errors of a primary that steps down', async () => {
    const { bus, failing } = await opened()
    let handled = 0
    bus.on('a', () => {
      handled++
    })
    await bus.start()
    await failing(['find', 'update', 'delete', 'commitTransaction'], 10, { errorCode: 10107 })
    const emitted = () =>
      bus.emit('a', {}).then(
        () => true,
        () => false,
      )
    await until(emitted)
    await until(() => handled >= 1)
    await bus.stop()
  })

  test('two operations at once in one session are refused with what to do', async () => {
    const { db, outbox, bus } = await opened()
    const orders = db.collection('orders')
    await orders.insertOne({})
    const seen: unknown[] = []
    for (let round = 0; round < 20 && !seen.some((error) => error instanceof StorageError); round++) {
      const both = outbox.transaction(async (session) => {
        const theirs = orders.insertOne({}, { session })
        theirs.catch(() => {})
        await Promise.all([bus.emit('a', {}), theirs])
      })
      await both.catch((error) => seen.push(error))
    }
    const refused = seen.find((error) => error instanceof StorageError)
    expect(refused).toMatchObject({
      transient: false,
      message: expect.stringContaining('await each operation'),
    })
    const events = await db.collection('outbox_events').countDocuments()
    expect(await orders.countDocuments()).toBe(1 + events)
  })

  test('a callback that ends the transaction itself does not pass for a commit', async () => {
    const { db, outbox, bus } = await opened()
    const aborted = outbox.transaction(async (session) => {
      await bus.emit('a', {})
      await session.abortTransaction()
    })
    await expect(aborted).rejects.toThrow(TransactionClosedError)
    expect(await db.collection('outbox_events').countDocuments()).toBe(0)
  })

  test('a closed client fails with a typed error that no waiting mends', async () => {
    const { client, outbox, bus } = await opened()
    await client.close()
    await expect(outbox.stats()).rejects.toMatchObject({ name: 'StorageError', transient: false })
    await expect(outbox.storage.write([outcome({ append: [event('a')] })])).rejects.toThrow(StorageError)
    await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toThrow(StorageError)
  })

  test('nobody answers: reads fail as passing, writes as unknown', async () => {
    const client = new MongoClient('mongodb://127.0.0.1:1', { serverSelectionTimeoutMS: 100 })
    cleanups.push(() => client.close())
    const { storage } = new MongoDBOutbox(client, { database: randomUUID(), logger: false })
    for (const message of [/ECONNREFUSED/, /call client\.connect\(\)/]) {
      await expect(takeDue(storage, 1, 1_000)).rejects.toMatchObject({
        name: 'StorageError',
        transient: true,
        message: expect.stringMatching(message),
      })
    }
    await expect(storage.write([outcome({ append: [event('a')] })])).rejects.toThrow(UnknownOutcomeError)
  })
})
