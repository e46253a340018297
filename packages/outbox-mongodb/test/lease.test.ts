import { randomUUID } from 'node:crypto'
import { type ClientSession, MongoClient } from 'mongodb'
import { OutboxEventBus } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { event, lease, opened, outcome } from './opened.ts'

const url = serverUrl()

test.skipIf(url === undefined)(
  'an event that an abandoned transaction holds does not keep others from being leased',
  async () => {
    const client = await new MongoClient(url ?? '').connect()
    const database = `t${randomUUID().replaceAll('-', '').slice(0, 20)}`
    const outbox = new MongoDBOutbox<ClientSession>(client, { database, logger: false })
    await outbox.initialize()
    const bus = new OutboxEventBus(outbox)
    for (const id of ['held', 'free-1', 'free-2']) await bus.emit('a', {}, { id })
    // What a process leaves behind that is killed between its write and its commit.
    const abandoned = client.startSession()
    abandoned.startTransaction()
    const events = client.db(database).collection<{ _id: string }>('outbox_events')
    await events.updateOne({ _id: 'held' }, { $set: { touched: true } }, { session: abandoned })
    try {
      const leased = await takeDue(outbox.storage, 10, 60_000)
      expect(leased.map(({ id }) => id)).toEqual(['free-1', 'free-2'])
    } finally {
      await abandoned.abortTransaction()
      await abandoned.endSession()
    }
    expect((await takeDue(outbox.storage, 10, 60_000)).map(({ id }) => id)).toEqual(['held'])
    await client.db(database).dropDatabase()
    await client.close()
  },
)

test.skipIf(url === undefined)(
  'a share that binds costs a second look at first, and one after that as long as it does',
  async () => {
    const { outbox, during } = await opened()
    const { storage } = outbox
    const events = ['a', 'a', 'a', 'a', 'a', 'a', 'b'].map((type, n) => event(`${type}${n}`, { type }))
    await storage.write([outcome({ append: events })])
    const shares = ['a', 'b'].map((address) => ({ address, limit: 2 }))
    const taken: string[] = []
    const take = async () => {
      taken.push(
        ...(await storage.lease({ limit: 3, leaseMs: 60_000, addresses: shares })).map(({ id }) => id),
      )
    }
    expect(await during(take)).toEqual(['find', 'aggregate', 'update', 'find'])
    expect(taken).toEqual(['a0', 'a1', 'b6'])
    expect(await during(take)).toEqual(['aggregate', 'update', 'find'])
    expect(await during(take)).toEqual(['aggregate', 'update', 'find'])
    expect(taken).toHaveLength(7)
    expect(await during(take)).toEqual(['aggregate'])
    expect(await during(take)).toEqual(['find'])
    expect(await during(() => lease(storage, 3, ['a', 'b']))).toEqual(['find'])
  },
)

test.skipIf(url === undefined)(
  'a key in which an abandoned transaction has written holds up no other, nor those who settle',
  async () => {
    const { client, outbox } = await opened()
    const { storage } = outbox
    const keyed = (id: string, key = 'k') => outcome({ append: [event(id, { key })] })
    await storage.write([keyed('1')])
    const abandoned = client.startSession()
    abandoned.startTransaction()
    await storage.write([keyed('2')], abandoned)
    await storage.write([keyed('x', 'x')])
    const held = await lease(storage, 10)
    expect(held.map(({ id }) => id)).toEqual(['1', 'x'])
    for (const { id, attempt, key } of held) {
      const settle = { kind: 'complete', id, attempt, key, keepMs: 0 } as const
      expect(await storage.write([outcome({ settle })])).toEqual([{ status: 'applied', unsure: true }])
    }
    // Until the server gives that transaction up, three seconds after it began.
    await storage.write([keyed('3')])
    expect((await lease(storage, 10)).map(({ id }) => id)).toEqual(['3'])
    await abandoned.endSession()
  },
)
