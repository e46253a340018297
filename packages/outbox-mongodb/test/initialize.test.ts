import { NewerSchemaError, NotInitializedError, UnsupportedBackendError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { completing, event, lease, opened, outcome } from './opened.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('MongoDB, initialized', () => {
  test('once more it only looks', async () => {
    const { outbox, during } = await opened()
    const commands = await during(() => outbox.initialize())
    expect(commands).toEqual(['hello', 'find', 'listIndexes', 'listIndexes', 'listIndexes'])
  })

  test('what a newer version has laid out is left as it is; what an older one has is brought up to date', async () => {
    const { db, outbox } = await opened()
    const notes = db.collection<{ _id: string; version: number }>('outbox_events_notes')
    expect(await notes.find().toArray()).toEqual([{ _id: 'schema', version: 2 }])
    await notes.updateOne({ _id: 'schema' }, { $set: { version: 3 } })
    await db.collection('saga_store').drop()
    await expect(outbox.initialize()).rejects.toThrow(NewerSchemaError)
    await expect(outbox.initialize()).rejects.toThrow(/"outbox_events" has schema version 3, .* none after 2/)
    expect(await db.listCollections({ name: 'saga_store' }).toArray()).toEqual([])
    expect(await notes.find().toArray()).toEqual([{ _id: 'schema', version: 3 }])
    await notes.deleteMany()
    await outbox.initialize()
    expect(await notes.find().toArray()).toEqual([{ _id: 'schema', version: 2 }])
  })

  test('what the version before addresses has left is brought up to date, also what it writes later', async () => {
    const { db, outbox, during } = await opened()
    const { storage } = outbox
    await db.dropDatabase()
    const events = db.collection<{ _id: string }>('outbox_events')
    const open = { open: true }
    const keys = { visible: 1, _id: 1 } as const
    await events.createIndex(keys, { name: 'outbox_open', partialFilterExpression: open })
    await db
      .collection<{ _id: string }>('outbox_events_notes')
      .insertOne({ _id: 'schema', version: 1 } as { _id: string })
    const old = (_id: string, changes: object = {}) => ({
      ...{ _id, type: 'a', body: '{}', headers: '{}', fingerprint: null, created: new Date(1) },
      ...{ visible: new Date(1), attempt: 0, uncounted: 0, state: 'waiting', ...changes },
    })
    const dead = { state: 'dead', died: new Date(1), error: 'because' }
    await events.insertMany([old('1', open), old('2', { ...open, type: 'b' }), old('dead', dead)])
    await Promise.all([outbox.initialize(), outbox.initialize(), outbox.initialize()])
    expect((await events.indexes()).map(({ name }) => name)).not.toContain('outbox_open')
    expect(await lease(storage, 10, ['a', 'b'])).toMatchObject([
      { id: '1', address: 'a', key: null },
      { id: '2', address: 'b' },
    ])
    const [letter] = (await storage.listDead({ limit: 10 })).events
    expect(letter).toMatchObject({ id: 'dead', address: 'a', key: null, waitingBehind: 0 })
    await storage.write([outcome({ settle: { kind: 'revive', id: 'dead', attempt: 0 } })])
    await events.insertOne(old('late', { ...open, type: 'c' }))
    expect(await storage.stats()).toMatchObject({ due: 2, dueByAddress: { a: 1, c: 1 } })
    const addresses = async () => (await storage.waiting()).map(({ address }) => address)
    expect(await during(addresses)).toEqual(['aggregate', 'update', 'aggregate'])
    expect(await addresses()).toEqual(['a', 'b', 'c'])
    expect((await lease(storage, 10, ['a', 'c'])).map(({ id }) => id).sort()).toEqual(['dead', 'late'])
  })

  test('side by side, by several processes, each finds all of it', async () => {
    const { client, db, outbox } = await opened()
    await db.dropDatabase()
    await Promise.all(Array.from({ length: 5 }, () => outbox.initialize()))
    const names = async (name: string) =>
      (await client.db(db.databaseName).collection(name).indexes()).map((index) => index.name).sort()
    const of = ['_id_', 'outbox_dead', 'outbox_done', 'outbox_due', 'outbox_keyed']
    expect(await names('outbox_events')).toEqual(of)
    expect(await names('outbox_events_keys')).toEqual(['_id_'])
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
    const leased = await takeDue(outbox.storage, 1, 60_000)
    expect(await outbox.storage.write(completing(leased))).toEqual([{ status: 'applied' }])
    expect(await outbox.sagaStore('1h').get('claim')).toEqual(Buffer.of(1))
    await bus.start()
    await bus.stop()
  })

  test.each([
    ['outbox_events', 'outbox_due', 'lease'],
    ['outbox_events', 'outbox_keyed', 'append'],
    ['outbox_events', 'outbox_done', 'purge'],
    ['outbox_events', 'outbox_dead', 'listDead'],
    ['saga_store', 'outbox_expires', 'purge'],
  ] as const)(
    'an index of %s that was dropped or hidden, %s, is missed by name',
    async (name, index, verb) => {
      const { db, outbox } = await opened()
      const { storage } = outbox
      const verbs = {
        lease: () => lease(storage, 1),
        append: () => storage.write([outcome({ append: [event('b', { key: 'k' })] })]),
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
    await db.collection('outbox_events').dropIndex('outbox_due')
    await db.collection('outbox_events').createIndex({ visible: 1 }, { name: 'outbox_due' })
    await expect(outbox.initialize()).rejects.toThrow(/in the way of "outbox_due"/)
  })
})
