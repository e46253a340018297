import { randomUUID } from 'node:crypto'
import { type ClientSession, MongoClient } from 'mongodb'
import { MongoDBOutbox } from 'outbox-mongodb'
import { startServer } from '../test/servers/index.ts'
import { type Arm, assertDelivered, type Workload } from './measure.ts'
import { drain, type Fresh, sagas } from './ours.ts'

export async function mongodb(scale: number): Promise<readonly Workload[]> {
  const server = await startServer('mongodb')
  if (!server) return []
  const events = Math.round(10_000 * scale)

  const open = async (): Promise<Fresh<ClientSession> & { client: MongoClient; database: string }> => {
    const client = await new MongoClient(server.url).connect()
    const database = `bench_${randomUUID().replaceAll('-', '').slice(0, 16)}`
    const outbox = new MongoDBOutbox<ClientSession>(client, { database, logger: false })
    await outbox.initialize()
    return {
      client,
      database,
      outbox: outbox as never,
      write: () => {},
      async close() {
        await client.db(database).dropDatabase()
        await client.close()
      },
    }
  }

  /** Lease 100 in three calls, parse, delete: the same calls without a library. */
  const byHand: Arm = {
    name: 'mongodb by hand',
    async run(time) {
      const { client, database, close } = await open()
      const collection = client.db(database, { ignoreUndefined: true }).collection<{
        _id: string
        body: string
        open: boolean
        visible: Date
        lease?: string
      }>('outbox_events')
      const visible = new Date()
      for (let from = 0; from < events; from += 500) {
        await collection.insertMany(
          Array.from({ length: 500 }, (_, n) => ({
            _id: randomUUID(),
            body: `{"n":${from + n}}`,
            open: true,
            visible,
          })),
        )
      }
      const due = { open: true, $expr: { $lte: ['$visible', '$$NOW'] } }
      const majority = { writeConcern: { w: 'majority' } } as const
      let handled = 0
      await time(async () => {
        for (;;) {
          const sorted = { projection: { _id: 1 }, sort: { visible: 1, _id: 1 }, limit: 100 } as const
          const ids = (await collection.find(due, sorted).toArray()).map(({ _id }) => _id)
          if (ids.length === 0) return
          const lease = randomUUID()
          const taken = [{ $set: { lease, visible: { $add: ['$$NOW', 30_000] } } }]
          await collection.updateMany({ _id: { $in: ids }, ...due }, taken, majority)
          for (const { body } of await collection.find({ _id: { $in: ids }, lease }).toArray()) {
            if (JSON.parse(body)) handled++
          }
          await collection.deleteMany({ _id: { $in: ids }, lease }, majority)
        }
      })
      assertDelivered(events, handled)
      await close()
      return events
    },
  }

  return [
    {
      name: 'mongodb: drain no-op events, concurrency 24',
      target: 0.5,
      arms: [byHand, drain(open, events, 24)],
    },
    { name: 'mongodb: three-step sagas, steps', arms: [sagas(open, Math.round(500 * scale), 0)] },
  ]
}
