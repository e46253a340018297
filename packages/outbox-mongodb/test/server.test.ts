import { type ClientSession, MongoClient } from 'mongodb'
import { UnsupportedBackendError } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { mongodb } from '../../../test/servers/mongodb.ts'
import { freePort, ServerProcess, temporaryFolder } from '../../../test/servers/process.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { cleanups, opened } from './opened.ts'

// A primary that steps down and a standalone server can't be had of the server that other tests share.
const own = serverUrl() === undefined ? undefined : await mongodb.local()
if (!own) console.error(`!!! NOT TESTED: a standalone MongoDB and a primary stepping down; ${mongodb.advice}`)

describe.skipIf(!own)('MongoDB, on a server of its own', () => {
  test('a transaction whose primary steps down in the middle runs again, whole', async () => {
    if (!own) return
    cleanups.push(() => own.stop())
    // Not by a direct connection, which would stay with a server that is no primary any more.
    const url = own.url.replace('directConnection=true', 'replicaSet=rs0')
    const { client, db, outbox, bus } = await opened({}, {}, url)
    await db.createCollection('orders')
    const admin = new MongoClient(own.url)
    cleanups.push(() => admin.close())
    let runs = 0
    await outbox.transaction(async (session: ClientSession) => {
      runs++
      await db.collection('orders').insertOne({ run: runs }, { session })
      await bus.emit('a', { run: runs })
      if (runs === 1) {
        await admin.db('admin').command({ replSetStepDown: 1, secondaryCatchUpPeriodSecs: 0, force: true })
      }
      await outbox.sagaStore('1h').put('claim', Uint8Array.of(runs))
    })
    expect(runs).toBeGreaterThan(1)
    expect(await db.collection('orders').find().toArray()).toMatchObject([{ run: runs }])
    expect(await db.collection('outbox_events').find().toArray()).toMatchObject([{ body: `{"run":${runs}}` }])
    expect(await outbox.sagaStore('1h').get('claim')).toEqual(Buffer.of(runs))
    await client.close()
  })

  test('a standalone server is refused with the commands that make it a replica set', async () => {
    if (!own) return
    const port = await freePort()
    const client = new MongoClient(`mongodb://127.0.0.1:${port}/?directConnection=true`, {
      serverSelectionTimeoutMS: 1_000,
    })
    cleanups.push(() => client.close())
    const args = ['--port', `${port}`, '--bind_ip', '127.0.0.1', '--dbpath', temporaryFolder('standalone')]
    const standalone = new ServerProcess(own.source, args, () => client.connect())
    cleanups.push(() => standalone.end('SIGKILL'))
    await standalone.start()
    const outbox = new MongoDBOutbox(client, { database: 'standalone', logger: false })
    await expect(outbox.initialize()).rejects.toThrow(UnsupportedBackendError)
    await expect(outbox.initialize()).rejects.toThrow(/--replSet rs0.*rs\.initiate\(\)/)
    expect(await client.db('standalone').listCollections().toArray()).toEqual([])
  })
})
