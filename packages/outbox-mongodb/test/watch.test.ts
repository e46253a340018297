import { MongoClient } from 'mongodb'
import { OutboxEventBus, StorageError } from 'outbox-core'
import { until } from 'outbox-core/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { mongodb } from '../../../test/servers/mongodb.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { cleanups, event, opened, outcome, takesFailpoints } from './opened.ts'

const url = serverUrl()
const failpoints = url !== undefined && (await takesFailpoints(url))

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Change streams of a database that the server knows of, waited on or not. */
async function countStreams(server: MongoClient, database: string): Promise<number> {
  // Whoever waits for the oplog looks at its next entry whether it was ended.
  await server.db('nudges').collection('nudges').insertOne({})
  const all = { $currentOp: { allUsers: true, idleCursors: true, localOps: true } }
  const found = await server.db('admin').aggregate([all]).toArray()
  return found.filter((one) => {
    const text = JSON.stringify(one)
    return text.includes('"$changeStream"') && text.includes(`"${database}`)
  }).length
}

describe.skipIf(!failpoints)('MongoDB, watched', () => {
  test('a change stream that broke is opened again', async () => {
    const { database, bus, failing } = await opened()
    const client = new MongoClient(url ?? '', { appName: database })
    cleanups.push(() => client.close())
    const watching = new MongoDBOutbox(client, { database, watch: true, logger: false })
    const sleepy = new OutboxEventBus(watching, { poll: { min: '1h', max: '1h' } })
    let handled = 0
    sleepy.on('a', () => {
      handled++
    })
    await sleepy.start()
    // Emits until the stream is open: nothing tells when it is.
    await until(async () => {
      await bus.emit('a', {})
      return handled > 0
    })
    await failing(['getMore', 'aggregate'], 2, { errorCode: 8_000 })
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    const before = handled
    await until(async () => {
      await bus.emit('a', {})
      return handled > before
    }, 20_000)
    await sleepy.stop()
  })

  test.each([{}, { socketTimeoutMS: 1_000 }])(
    'a change stream on which nothing happens asks seldom, and is not broken: %o',
    async (clientOptions) => {
      const { client, outbox, bus, during } = await opened({ watch: true }, clientOptions)
      let failed = 0
      client.on('commandFailed', () => failed++)
      let woken = 0
      const end = await outbox.storage.listen?.(() => woken++)
      await until(async () => {
        await bus.emit('a', {})
        return woken > 0
      })
      // What was emitted meanwhile is still answered.
      await new Promise((resolve) => setTimeout(resolve, 500))
      const asked = await during(() => new Promise((resolve) => setTimeout(resolve, 2_600)))
      expect(failed).toBe(0)
      // Half of what the client waits for an answer.
      expect(asked.length).toBeLessThanOrEqual(clientOptions.socketTimeoutMS ? 6 : 1)
      expect(new Set(asked).size).toBeLessThanOrEqual(1)
      await end?.()
    },
  )

  test('a change stream of a client that was closed under it harms nobody, and ends', async () => {
    const { client, outbox } = await opened({ watch: true })
    let woken = 0
    const end = await outbox.storage.listen?.(() => woken++)
    await client.close()
    // Long enough for the stream to be opened again.
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    await end?.()
    const before = woken
    await new Promise((resolve) => setTimeout(resolve, 1_200))
    expect(woken).toBe(before)
  })

  test('a stream whose collection was dropped is opened again on the one that came back', async () => {
    const { client, database, db, outbox } = await opened({ watch: true })
    let woken = 0
    const end = await outbox.storage.listen?.(() => woken++)
    await db.collection('outbox_events').drop()
    await outbox.initialize()
    await until(() => woken === 1)
    expect(await countStreams(client, database)).toBe(1)
    await outbox.storage.write([outcome({ append: [event('a')] })])
    await until(() => woken === 2)
    await end?.()
    await until(async () => (await countStreams(client, database)) === 0)
  })

  test('a server that refuses to be watched is said so, once', async () => {
    const { outbox, failing } = await opened({ watch: true })
    await failing(['aggregate'], 1, { errorCode: 13 })
    await expect(outbox.storage.listen?.(() => {})).rejects.toThrow(StorageError)
  })

  test('one that is away at first is waited for', async () => {
    const { outbox, failing } = await opened({ watch: true })
    await failing(['aggregate'], 1, { errorCode: 10107 })
    let woken = 0
    const end = await outbox.storage.listen?.(() => woken++)
    await until(() => woken === 1)
    await end?.()
  })
})

const own = url === undefined ? undefined : await mongodb.local()
if (!own) console.error(`!!! NOT TESTED: outages of a MongoDB that is watched; ${mongodb.advice}`)

describe.skipIf(!own)('MongoDB, watched through outages', () => {
  afterAll(() => own?.stop())

  test('there is one stream after each of them, and none when it was ended, in the middle of one as well', async () => {
    if (!own) return
    const { client, database, outbox } = await opened({ watch: true }, {}, own.url)
    let woken = 0
    const listen = () => outbox.storage.listen?.(() => woken++)
    let end = await listen()
    for (let outage = 1; outage <= 2; outage++) {
      await own.kill?.()
      await wait(500)
      await own.restart?.()
      await until(() => woken === 2 * outage - 1)
      await outbox.storage.write([outcome({ append: [event(`a${outage}`)] })])
      await until(() => woken === 2 * outage)
    }
    expect(await countStreams(client, database)).toBe(1)
    await end?.()
    await until(async () => (await countStreams(client, database)) === 0)
    end = await listen()
    await own.kill?.()
    await wait(200)
    await end?.()
    await own.restart?.()
    // Longer than a stream waits before it is opened again.
    await wait(1_500)
    expect(await countStreams(client, database)).toBe(0)
    await outbox.storage.write([outcome({ append: [event('last')] })])
    await wait(300)
    expect(woken).toBe(4)
  })
})
