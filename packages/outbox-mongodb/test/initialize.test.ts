import { NewerSchemaError, NotInitializedError, UnsupportedBackendError } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { completing, event, opened, outcome } from './opened.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('MongoDB, initialized', () => {
  test('once more it only looks', async () => {
    const { outbox, during } = await opened()
    const commands = await during(() => outbox.initialize())
    expect(commands).toEqual(['hello', 'find', 'listIndexes', 'listIndexes'])
  })

  test('what a newer version has laid out is left as it is; what an older one has is brought up to date', async () => {
    const { db, outbox } = await opened()
    const notes = db.collection<{ _id: string; version: number }>('outbox_events_notes')
    expect(await notes.find().toArray()).toEqual([{ _id: 'schema', version: 1 }])
    await notes.updateOne({ _id: 'schema' }, { $set: { version: 2 } })
    await db.collection('saga_store').drop()
    await expect(outbox.initialize()).rejects.toThrow(NewerSchemaError)
    await expect(outbox.initialize()).rejects.toThrow(/"outbox_events" has schema version 2, .* none after 1/)
    expect(await db.listCollections({ name: 'saga_store' }).toArray()).toEqual([])
    expect(await notes.find().toArray()).toEqual([{ _id: 'schema', version: 2 }])
    await notes.deleteMany()
    await outbox.initialize()
    expect(await notes.find().toArray()).toEqual([{ _id: 'schema', version: 1 }])
  })

  test('side by side, by several processes, each finds all of it', async () => {
    const { client, db, outbox } = await opened()
    await db.dropDatabase()
    await Promise.all(Array.from({ length: 5 }, () => outbox.initialize()))
    const names = async (name: string) =>
      (await client.db(db.databaseName).collection(name).indexes()).map((index) => index.name).sort()
    expect(await names('outbox_events')).toEqual(['_id_', 'outbox_dead', 'outbox_done', 'outbox_open'])
    expect(await names('saga_store')).toEqual(['_id_', 'outbox_expires'])
  })

  test('collections that were dropped come back with a write, and a worker says so until they are initialized', async () => {
    const { db, outbox, bus } = await opened()
    await db.collection('outbox_events').drop()
    await db.collection('saga_store').drop()
    await outbox.transaction(async () => {
      await bus.emit('a', {})
      await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
    })
    let handled = 0
    bus.on('a', () => {
      handled++
    })
    await expect(bus.start()).rejects.toThrow(NotInitializedError)
    await expect(outbox.stats()).rejects.toThrow(/call outbox\.initialize\(\)/)
    await expect(outbox.sagaStore('1h').cleanup()).rejects.toThrow(NotInitializedError)
    expect(handled).toBe(0)
    await outbox.initialize()
    const leased = await outbox.storage.lease(1, 60_000)
    expect(await outbox.storage.write(completing(leased))).toEqual([{ status: 'applied' }])
    expect(await outbox.sagaStore('1h').get('claim')).toEqual(Buffer.of(1))
    await bus.start()
    await bus.stop()
  })

  test.each([
    ['outbox_events', 'outbox_open', 'lease'],
    ['outbox_events', 'outbox_done', 'purge'],
    ['outbox_events', 'outbox_dead', 'listDead'],
    ['saga_store', 'outbox_expires', 'purge'],
  ] as const)(
    'an index of %s that was dropped or hidden, %s, is missed by name',
    async (name, index, verb) => {
      const { db, outbox } = await opened()
      const { storage } = outbox
      const verbs = {
        lease: () => storage.lease(1, 60_000),
        purge: () => storage.purge(1),
        listDead: () => storage.listDead({ limit: 1 }),
      }
      await storage.write([outcome({ append: [event('a')] })])
      await db.command({ collMod: name, index: { name: index, hidden: true } })
      await expect(verbs[verb]()).rejects.toThrow(NotInitializedError)
      await expect(outbox.initialize()).rejects.toThrow(UnsupportedBackendError)
      await db.collection(name).dropIndex(index)
      await expect(verbs[verb]()).rejects.toThrow(NotInitializedError)
      await outbox.initialize()
      await verbs[verb]()
    },
  )

  test('an index of the same name that is another one is in the way', async () => {
    const { db, outbox } = await opened()
    await db.collection('outbox_events').dropIndex('outbox_open')
    await db.collection('outbox_events').createIndex({ visible: 1 }, { name: 'outbox_open' })
    await expect(outbox.initialize()).rejects.toThrow(/in the way of "outbox_open"/)
  })
})
