import { randomUUID } from 'node:crypto'
import { type ClientSession, MongoClient, type MongoClientOptions } from 'mongodb'
import { type Lease, type LeasedEvent, type NewEvent, OutboxEventBus, type Outcome } from 'outbox-core'
import { until } from 'outbox-core/testing'
import { afterEach, inject } from 'vitest'
import { MongoDBOutbox, type MongoDBOutboxOptions } from '../src/index.ts'

/** What a test has to undo, done last first when it ends. */
export const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

export interface Opened {
  readonly client: MongoClient
  readonly database: string
  readonly db: ReturnType<MongoClient['db']>
  readonly outbox: MongoDBOutbox<ClientSession>
  readonly bus: OutboxEventBus
  /** The commands that the client sends while `work` runs. */
  during(work: () => Promise<unknown>): Promise<string[]>
  /** Makes the server fail this client's next `times` commands of a kind; nobody else's. */
  failing(failCommands: string[], times: number, data: object): Promise<void>
}

/** An outbox in a database of its own, on a client of its own. */
export async function opened(
  options: MongoDBOutboxOptions = {},
  clientOptions: MongoClientOptions = {},
  url = inject('serverUrl') ?? '',
  Client: typeof MongoClient = MongoClient,
): Promise<Opened> {
  const commands: string[] = []
  const database = `t${randomUUID().replaceAll('-', '').slice(0, 20)}`
  const client = new Client(url, { monitorCommands: true, appName: database, ...clientOptions })
  client.on('commandStarted', ({ commandName }) => commands.push(commandName))
  cleanups.push(() => client.close())
  const db = client.db(database)
  cleanups.push(() => db.dropDatabase({ writeConcern: { w: 1 } }).catch(() => {}))
  const admin = new MongoClient(url)
  cleanups.push(() => admin.close())
  const outbox = new MongoDBOutbox<ClientSession>(client, { database, logger: false, ...options })
  await outbox.initialize()
  return {
    client,
    database,
    db,
    outbox,
    bus: new OutboxEventBus(outbox),
    async during(work) {
      commands.length = 0
      await work()
      return commands.filter((name) => name !== 'endSessions')
    },
    async failing(failCommands, times, data) {
      await takeTurn(admin, database)
      cleanups.push(() => admin.db('admin').command({ configureFailPoint: 'failCommand', mode: 'off' }))
      await admin.db('admin').command({
        configureFailPoint: 'failCommand',
        mode: { times },
        data: { failCommands, appName: database, ...data },
      })
    },
  }
}

/** An outcome of the given parts. */
export function outcome(parts: Partial<Outcome>): Outcome {
  return { append: [], put: [], remove: [], ...parts }
}

export function event(id: string, changes: Partial<NewEvent> = {}): NewEvent {
  const { type = 'a' } = changes
  const plain = { address: type, key: null, body: '{}', headers: {}, due: { inMs: 0 }, fingerprint: null }
  return { id, type, ...plain, ...changes }
}

/** Leases what is due at some addresses, as a worker that knows them does. */
export function lease(
  storage: MongoDBOutbox<ClientSession>['storage'],
  limit: number,
  addresses: readonly string[] = ['a'],
): Promise<readonly LeasedEvent[]> {
  return storage.lease({
    limit,
    leaseMs: 60_000,
    addresses: addresses.map((address) => ({ address, limit })),
  })
}

/** Completes what was leased, without retention. */
export function completing(leases: readonly (Lease & { readonly key?: string | null })[]): Outcome[] {
  return leases.map(({ id, attempt, key = null }) =>
    outcome({ settle: { kind: 'complete', id, attempt, key, keepMs: 0 } }),
  )
}

// Longer than any test takes: one that was killed has left its turn behind.
const LONGEST_TURN_MS = 100_000

/** A server has one such fault at a time, and the files of tests run side by side. */
async function takeTurn(admin: MongoClient, by: string): Promise<void> {
  const turns = admin.db('turns').collection<{ _id: string; by: string; at: Date }>('turns')
  await until(async () => {
    const free = { $or: [{ by }, { at: { $lt: new Date(Date.now() - LONGEST_TURN_MS) } }] }
    const turn = { $set: { by, at: new Date() } }
    return turns.updateOne({ _id: 'failCommand', ...free }, turn, { upsert: true }).then(
      () => true,
      () => false,
    )
  })
  cleanups.push(() => turns.deleteOne({ _id: 'failCommand', by }))
}

/** Whether the server can be made to fail; says so where it can't. */
export async function takesFailpoints(url: string): Promise<boolean> {
  const client = new MongoClient(url)
  const answer = client.db('admin').command({ configureFailPoint: 'failCommand', mode: 'off' })
  const takes = await answer
    .then(() => true)
    .catch(() => false)
    .finally(() => client.close())
  if (!takes)
    console.error('!!! NOT TESTED: faults of MongoDB; start mongod with --setParameter enableTestCommands=1')
  return takes
}
