import { randomUUID } from 'node:crypto'
import { type ClientSession, MongoClient } from 'mongodb'
import { OutboxEventBus } from 'outbox-core'
import { expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'

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
      const leased = await outbox.storage.lease(10, 60_000)
      expect(leased.map(({ id }) => id)).toEqual(['free-1', 'free-2'])
    } finally {
      await abandoned.abortTransaction()
      await abandoned.endSession()
    }
    expect((await outbox.storage.lease(10, 60_000)).map(({ id }) => id)).toEqual(['held'])
    await client.db(database).dropDatabase()
    await client.close()
  },
)
