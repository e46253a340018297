import { randomUUID } from 'node:crypto'
import { Binary, type ClientSession, MongoClient } from 'mongodb'
import type { Outbox } from 'outbox-core'
import { MongoDBOutbox } from 'outbox-mongodb'
import { armsOn, type Contender, type Database, type OpenOptions, type Ours, polling } from '../contender.ts'
import { ours } from '../ours.ts'
import { newPlace, sharedServer } from './servers.ts'

interface Event {
  _id: string
  type: string
  body: string
  headers: string
  open: boolean
  created: Date
  visible: Date
  attempt: number
  uncounted: number
  lease?: string
}

interface Opened {
  /** A database. */
  readonly place: string
  readonly client: MongoClient
  readonly outbox: Outbox<ClientSession>
  close(): Promise<void>
}

async function open(url: string, { place, listen, onCall }: OpenOptions): Promise<Opened> {
  const client = new MongoClient(url, { monitorCommands: onCall !== undefined })
  if (onCall) client.on('commandStarted', onCall)
  await client.connect()
  const database = place ?? newPlace()
  const outbox = new MongoDBOutbox<ClientSession>(client, { database, logger: false, watch: listen ?? false })
  await outbox.initialize()
  if (place === undefined) await client.db(database).createCollection('business')
  return {
    place: database,
    client,
    outbox: outbox as unknown as Outbox<ClientSession>,
    async close() {
      if (place === undefined) await client.db(database).dropDatabase()
      await client.close()
    },
  }
}

async function openOurs(url: string, options: OpenOptions): Promise<Ours> {
  const { place, client, outbox, close } = await open(url, options)
  const business = client.db(place).collection('business')
  const write = (session: ClientSession): unknown => business.insertOne({ n: 1 }, { session })
  return ours<ClientSession>({ place, outbox, write, close }, options)
}

const MAJORITY = { writeConcern: { w: 'majority' } } as const
const DUE = { open: true, $expr: { $lte: ['$visible', '$$NOW'] } }

function byHand({ place, client, close }: Opened): Contender {
  const db = client.db(place)
  const events = db.collection<Event>('outbox_events')
  const payloads = db.collection<{ _id: string; data: Binary; expires_at: Date }>('saga_store')
  const document = (payload: object): Event => {
    const now = new Date()
    const body = JSON.stringify(payload)
    const times = { created: now, visible: now, attempt: 0, uncounted: 0 }
    return { _id: randomUUID(), type: 'noop', body, headers: '{}', open: true, ...times }
  }
  return {
    place,
    emit: (payload) => events.insertOne(document(payload), MAJORITY),
    emitInTransaction: (payload) =>
      client.withSession((session) =>
        session.withTransaction(async () => {
          await db.collection('business').insertOne({ n: 1 }, { session })
          await events.insertOne(document(payload), { session })
        }, MAJORITY),
      ),
    emitMany: (all) => events.insertMany(all.map(document), MAJORITY),
    /** Lease 100 in three calls, parse, delete what is still leased. */
    consume: async (handle) =>
      polling(async () => {
        const oldest = { projection: { _id: 1 }, sort: { visible: 1, _id: 1 }, limit: 100 } as const
        const ids = (await events.find(DUE, oldest).toArray()).map(({ _id }) => _id)
        if (ids.length === 0) return 0
        const lease = randomUUID()
        const taken = { lease, attempt: { $add: ['$attempt', 1] }, visible: { $add: ['$$NOW', 30_000] } }
        await events.updateMany({ _id: { $in: ids }, ...DUE }, [{ $set: taken }], MAJORITY)
        for (const { body, headers } of await events.find({ _id: { $in: ids }, lease }).toArray()) {
          JSON.parse(headers)
          handle(JSON.parse(body))
        }
        await events.deleteMany({ _id: { $in: ids }, lease }, MAJORITY)
        return ids.length
      }),
    pending: () => events.countDocuments(),
    store: {
      put: (id, data) =>
        payloads.insertOne(
          { _id: id, data: new Binary(data), expires_at: new Date(Date.now() + 604_800_000) },
          MAJORITY,
        ),
      get: (id) => payloads.findOne({ _id: id }),
    },
    close,
  }
}

function naively(opened: Opened): Contender {
  const events = opened.client.db(opened.place).collection<Event>('outbox_events')
  return {
    ...byHand(opened),
    consume: async (handle) =>
      polling(async () => {
        const event = await events.findOne(DUE, { sort: { visible: 1, _id: 1 } })
        if (!event) return 0
        handle(JSON.parse(event.body))
        return (await events.deleteOne({ _id: event._id }, MAJORITY)).deletedCount
      }),
  }
}

export async function mongodb(): Promise<Database | undefined> {
  const url = await sharedServer('mongodb')
  if (url === undefined) return undefined
  const arm = armsOn((options) => open(url, options))
  return {
    name: 'mongodb',
    floor: arm('mongodb driver by hand', 'floor', byHand),
    ours: { name: 'ours', role: 'ours', open: (options = {}) => openOurs(url, options) },
    naive: { ...arm('naive: one document a time', 'other', naively), share: 0.1 },
    peers: { emit: [], drain: [], latency: [], sagas: [] },
    sizes: {
      emits: 1_000,
      drain: 20_000,
      sagas: 500,
      payloads: 500,
      openLoop: [100, 1_000],
      backlogs: [10_000, 100_000, 1_000_000],
      batch: 500,
    },
    drainTarget: 0.5,
    async describe() {
      const client = new MongoClient(url)
      const { version } = await client.db('admin').command({ buildInfo: 1 })
      await client.close()
      return { MongoDB: version, writeConcern: 'majority, journaled', members: '1' }
    },
  }
}
