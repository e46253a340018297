import { randomUUID } from 'node:crypto'
import { type ClientSession, MongoClient } from 'mongodb'
import { type Backend, type RawEvent, until } from 'outbox-core/testing'
import { MongoDBOutbox, type MongoTransactionOptions } from '../src/index.ts'
import { dropUsers, LEAST_RIGHTS, userWith } from './least-rights.ts'

interface RawDocument {
  _id: string
  [field: string]: unknown
}

// As many as the client may have, all of them from the start: one more would be noticed.
const POOL_SIZE = 5

export interface MongoBackendOptions {
  /** @default 'mongodb' */
  readonly name?: string
  /** Of the outbox's clients. */
  readonly Client?: typeof MongoClient
  /** The outbox's clients have the rights that are documented, and no other; the URL is one of who may do everything. */
  readonly restricted?: boolean
}

/** What a user writes beside the outbox needs rights of its own. */
const OWN_RIGHTS = { collection: 'business', actions: ['insert'] }

/** A MongoDB backend: a database of its own for every place. */
export function mongoBackend(
  url: string,
  { name = 'mongodb', Client = MongoClient, restricted = false }: MongoBackendOptions = {},
): Backend<ClientSession, MongoTransactionOptions> {
  return {
    name,
    async open(options = {}) {
      const database = `place_${randomUUID().replaceAll('-', '').slice(0, 16)}`
      const clients: MongoClient[] = []
      let commands = 0
      const raw = await new MongoClient(url).connect()
      clients.push(raw)
      const db = raw.db(database)
      const events = db.collection<RawDocument>('outbox_events')
      const payloads = db.collection<RawDocument>('saga_store')
      const business = db.collection('business')
      await db.createCollection('business')
      if (restricted) await new MongoDBOutbox(raw, { database }).initialize()
      const theirs = restricted ? await userWith(db, url, [...LEAST_RIGHTS, OWN_RIGHTS]) : url
      const connect = async (appName: string): Promise<MongoClient> => {
        const client = new Client(theirs, {
          monitorCommands: true,
          appName,
          minPoolSize: POOL_SIZE,
          maxPoolSize: POOL_SIZE,
          serverMonitoringMode: 'poll',
        })
        client.on('commandStarted', ({ commandName }) => {
          if (!commandName.startsWith('sasl')) commands++
        })
        clients.push(client)
        return client.connect()
      }
      const client = await connect(database)
      const outbox = new MongoDBOutbox<ClientSession>(client, { ...options, database })
      await outbox.initialize()
      return {
        outbox,
        sibling: async (more) =>
          new MongoDBOutbox<ClientSession>(await connect('sibling'), { ...options, ...more, database }),
        async writeBusinessRow(session, key) {
          await client.db(database).collection('business').insertOne({ key }, { session })
        },
        businessRows: async () => (await business.find().toArray()).map(({ key }) => key as string),
        async ownTransaction(work) {
          await client.withSession((session) => session.withTransaction(() => work(session)))
        },
        async events() {
          const found = await events.find().sort({ created: 1, _id: 1 }).toArray()
          return found.map(
            ({ _id, type, body, headers, state, attempt }) =>
              ({ id: _id, type, body, headers: JSON.parse(headers as string), state, attempt }) as RawEvent,
          )
        },
        async payloads() {
          const found = await payloads.find({}, { promoteBuffers: true }).toArray()
          return found.map(({ _id, data, expires_at }) => ({
            id: _id,
            data: Uint8Array.from(data as Uint8Array),
            expiresAt: (expires_at as Date).getTime(),
          }))
        },
        async overwritePayload(id, data) {
          await payloads.updateOne({ _id: id }, { $set: { data: Buffer.from(data) } })
        },
        async expirePayload(id) {
          await payloads.updateOne({ _id: id }, { $set: { expires_at: new Date(1) } })
        },
        async expireLeases() {
          await events.updateMany({ state: 'leased' }, { $set: { visible: new Date(1) } })
        },
        roundTrips: () => commands,
        async connections() {
          // The pool is filled in the background, and the driver watches the server with one connection more.
          await until(async () => (await countConnections(raw, database)) > POOL_SIZE)
          return countConnections(raw, database)
        },
        async destroy() {
          await outbox.close()
          if (restricted) await dropUsers(db)
          await db.dropDatabase()
          await Promise.all(clients.map((one) => one.close()))
        },
      }
    },
  }
}

/** Connections to the server that call themselves so. */
export async function countConnections(raw: MongoClient, appName: string): Promise<number> {
  const all = { $currentOp: { allUsers: true, idleConnections: true, idleSessions: false } }
  const found = await raw
    .db('admin')
    .aggregate([all, { $match: { appName } }])
    .toArray()
  return new Set(found.map(({ connectionId }) => connectionId)).size
}
