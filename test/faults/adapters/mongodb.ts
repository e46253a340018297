import {
  type ClientSession,
  type Collection,
  MongoClient,
  MongoNetworkError,
  MongoServerError,
} from 'mongodb'
import type { Outbox } from 'outbox-core'
import { MongoDBOutbox } from 'outbox-mongodb'
import { headersOf, type Open, PATIENCE_MS } from './adapter.ts'
import type { DriverFaults } from './driver-faults.ts'

export const open: Open = async (url, database, { poolSize = 4, impatient, faults, ...options } = {}) => {
  const client = await new MongoClient(url, {
    maxPoolSize: poolSize,
    ...(impatient && {
      socketTimeoutMS: PATIENCE_MS,
      // Until its monitor gives up as well, the driver sends nothing to the server.
      connectTimeoutMS: PATIENCE_MS,
      heartbeatFrequencyMS: PATIENCE_MS,
    }),
  }).connect()
  const db = client.db(database)
  if (faults) makeFaulty(client, faults)
  const outbox = new MongoDBOutbox<ClientSession>(client, { database, logger: false, ...options })
  return {
    outbox: outbox as unknown as Outbox,
    async prepare() {
      await outbox.initialize()
      await db.createCollection('rows')
    },
    write: (tx, key) => db.collection('rows').insertOne({ key }, { session: tx as ClientSession }),
    async contents() {
      const all = (collection: string, ...fields: string[]) =>
        db
          .collection(collection)
          .find({}, { projection: Object.fromEntries(fields.map((field) => [field, 1])) })
          .toArray()
      const events = await all('outbox_events', 'open', 'headers', 'state')
      return {
        rows: (await all('rows', 'key')).map(({ key }) => key as string),
        events: events
          .filter(({ open, state }) => open || state === 'blocked')
          .map(({ headers }) => headersOf(headers)),
        dead: events.filter(({ state }) => state === 'dead').length,
        payloads: (await all('saga_store', '_id')).map(({ _id }) => String(_id)),
      }
    },
    async close() {
      await outbox.close()
      await client.close()
    },
  }
}

const WRITES = [
  'updateOne',
  'updateMany',
  'deleteOne',
  'deleteMany',
  'findOneAndUpdate',
  'bulkWrite',
] as const

function makeFaulty(client: MongoClient, faults: DriverFaults): void {
  const db = client.db.bind(client)
  client.db = (...parameters) => {
    const opened = db(...parameters)
    const collection = opened.collection.bind(opened)
    opened.collection = ((name: string) => withFaults(collection(name), faults)) as typeof opened.collection
    return opened
  }
  const startSession = client.startSession.bind(client)
  client.startSession = (...parameters) => {
    const session = startSession(...parameters)
    const commit = session.commitTransaction.bind(session)
    // The driver itself tries a commit again whose connection was lost; not one that took too long.
    session.commitTransaction = () =>
      faults.around(commit, () => lost('UnknownTransactionCommitResult'), commitTimedOut)
    return session
  }
}

function withFaults(collection: Collection, faults: DriverFaults): Collection {
  for (const method of WRITES) {
    const original = collection[method].bind(collection) as (...parameters: unknown[]) => Promise<unknown>
    collection[method] = ((...parameters: unknown[]) => {
      const inTransaction = (parameters.at(-1) as { session?: ClientSession }).session !== undefined
      const error = (): Error => lost(inTransaction ? 'TransientTransactionError' : 'RetryableWriteError')
      return faults.around(() => original(...parameters), error, error)
    }) as never
  }
  return collection
}

function lost(label: string): Error {
  const error = new MongoNetworkError('connection 7 to 127.0.0.1 closed')
  error.addErrorLabel(label)
  return error
}

function commitTimedOut(): Error {
  const errmsg = 'operation exceeded time limit'
  return new MongoServerError({ code: 50, errmsg, errorLabels: ['UnknownTransactionCommitResult'] })
}
