import { type ClientSession, MongoClient, MongoError, MongoServerError } from 'mongodb'
import { MongoClient as MongoClient6 } from 'mongodb6'
import { claimCheck, ForeignTransactionError, OutboxError, OutboxEventBus, StorageError } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { type Opened, opened, takesFailpoints } from './opened.ts'

const url = serverUrl()
const failpoints = url !== undefined && (await takesFailpoints(url))

const CONFLICT = { errorCode: 112, errorLabels: ['TransientTransactionError'] }

/** All that a user can do in a transaction of their own, and what the server is asked for then. */
const CALLS: [string, string, (place: Opened, session: ClientSession) => Promise<unknown>][] = [
  ['an event', 'update', ({ bus }) => bus.emit('a', {})],
  ['an event of an id', 'update', ({ bus }) => bus.emit('a', {}, { id: 'order-1' })],
  ['many events', 'update', ({ bus }) => bus.emitMany([1, 2].map((payload) => ({ type: 'a', payload })))],
  ['a payload put', 'update', ({ outbox }) => outbox.sagaStore('1h').put('claim', Uint8Array.of(1))],
  ['a payload got', 'find', ({ outbox }) => outbox.sagaStore('1h').get('claim')],
  ['a payload deleted', 'delete', ({ outbox }) => outbox.sagaStore('1h').delete('claim')],
  ['counts', 'aggregate', ({ outbox }) => outbox.stats()],
  ['dead letters', 'find', ({ outbox }) => outbox.deadLetters.list()],
  [
    'an event with a claim',
    'update',
    async ({ outbox }) => {
      const claiming = new OutboxEventBus(outbox)
      claiming.use(claimCheck(outbox.sagaStore('1h'), { threshold: 1 }))
      await claiming.emit('a', { some: 'thing' })
    },
  ],
  ['a transaction inside', 'update', ({ outbox, bus }) => outbox.transaction(() => bus.emit('a', {}))],
]

describe.skipIf(!failpoints)('MongoDB, in a transaction of the user’s own', () => {
  describe.each([
    ['driver 7', MongoClient],
    ['driver 6', MongoClient6 as unknown as typeof MongoClient],
  ])('%s', (_, Client) => {
    test.each(CALLS)('%s that meets another one is tried again by the driver', async (...given) => {
      const [, command, call] = given
      const place = await opened({}, {}, url, Client)
      const { client, db, outbox, failing } = place
      await db.createCollection('orders')
      let runs = 0
      await client.withSession((session) =>
        session.withTransaction(async () => {
          runs++
          await db.collection('orders').insertOne({ runs }, { session })
          if (runs === 1) await failing([command], 1, CONFLICT)
          await outbox.enlist(session, () => call(place, session))
        }),
      )
      expect(runs).toBe(2)
      expect(await db.collection('orders').find().toArray()).toMatchObject([{ runs: 2 }])
    })

    test('transactions that change the same rows all come to their end, each with its event', async () => {
      const { client, db, outbox, bus } = await opened({}, {}, url, Client)
      const stock = db.collection<{ _id: string; sold: number }>('stock')
      await stock.insertOne({ _id: 'chai', sold: 0 })
      const sell = () =>
        client.withSession((session) =>
          session.withTransaction(async () => {
            await bus.emit(
              'sold',
              {},
              { id: `sold-${(await stock.findOne({}, { session }))?.sold}`, transaction: session },
            )
            await stock.updateOne({ _id: 'chai' }, { $inc: { sold: 1 } }, { session })
          }),
        )
      await Promise.all(Array.from({ length: 6 }, sell))
      expect(await stock.findOne()).toMatchObject({ sold: 6 })
      expect(await outbox.stats()).toMatchObject({ due: 6 })
    })
  })

  test('the error of a conflict is ours, the driver’s, and holds nothing of either', async () => {
    const { client, db, bus } = await opened()
    const events = db.collection<{ _id: string }>('outbox_events')
    const [one, other] = [client.startSession(), client.startSession()]
    for (const session of [one, other]) session.startTransaction()
    await bus.emit('a', 'SECRET', { id: 'same', transaction: one })
    const error = await bus.emit('a', 'SECRET', { id: 'same', transaction: other }).catch((thrown) => thrown)
    expect(error).toBeInstanceOf(StorageError)
    expect(error).toBeInstanceOf(OutboxError)
    expect(error).toBeInstanceOf(MongoError)
    expect(error).not.toBeInstanceOf(ForeignTransactionError)
    expect(error).toMatchObject({ name: 'StorageError', code: 'OUTBOX_STORAGE', transient: true })
    expect(error.errorLabels).toEqual(['TransientTransactionError'])
    expect(error.hasErrorLabel('TransientTransactionError')).toBe(true)
    expect(error.hasErrorLabel('UnknownTransactionCommitResult')).toBe(false)
    expect(error.cause).toBeInstanceOf(MongoServerError)
    expect(error.cause).toMatchObject({ name: 'MongoServerError', code: 112, codeName: 'WriteConflict' })
    expect(JSON.stringify([error, error.cause, { ...error.cause }])).not.toContain('SECRET')
    await one.commitTransaction()
    await Promise.all([one, other].map((session) => session.endSession()))
    expect(await events.countDocuments()).toBe(1)
  })
})
