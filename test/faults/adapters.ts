import { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, ScanCommand } from '@aws-sdk/lib-dynamodb'
import Database from 'better-sqlite3'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { type ChainableCommander, Redis } from 'ioredis'
import { type ClientSession, MongoClient } from 'mongodb'
import type { Outbox } from 'outbox-core'
import { DynamoDBAwsSdkOutbox, type DynamoDBTransaction } from 'outbox-dynamodb-aws-sdk'
import { MongoDBOutbox } from 'outbox-mongodb'
import { PostgresDrizzleOutbox } from 'outbox-postgres-drizzle'
import { RedisIoredisOutbox } from 'outbox-redis-ioredis'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import pg from 'pg'
import type { ServerKind } from '../servers/server.ts'

/** What lies in a place, read with the raw client. */
interface Contents {
  /** Keys of the user's own rows. */
  readonly rows: readonly string[]
  /** Open events: the slip they belong to, and the claim they carry. */
  readonly events: readonly { readonly slip: string | undefined; readonly claim: string | undefined }[]
  readonly dead: number
  /** Claim ids. */
  readonly payloads: readonly string[]
}

/** One connection of a process that may be killed at any moment. */
export interface Opened {
  readonly outbox: Outbox
  prepare(): Promise<void>
  write(tx: unknown, key: string): unknown
  contents(): Promise<Contents>
  close(): Promise<void>
}

export interface FaultAdapter {
  readonly name: string
  /** The server it needs; SQLite needs none. */
  readonly server?: ServerKind
  open(url: string, place: string): Promise<Opened>
}

const headersOf = (json: unknown): { slip: string | undefined; claim: string | undefined } => {
  const headers = JSON.parse(String(json)) as Record<string, string>
  return { slip: headers['outbox-slip'], claim: headers['outbox-claim'] }
}

const sqlite: FaultAdapter = {
  name: 'sqlite',
  async open(_, place) {
    const db = new Database(place)
    db.pragma('journal_mode = WAL')
    const outbox = new SqliteBetterSqlite3Outbox<Database.Database>(db, { logger: false })
    const all = <Row>(text: string): Row[] => db.prepare(text).all() as Row[]
    return {
      outbox: outbox as unknown as Outbox,
      async prepare() {
        await outbox.initialize()
        db.exec('CREATE TABLE rows (key TEXT)')
      },
      write: (tx, key) => (tx as Database.Database).prepare('INSERT INTO rows VALUES (?)').run(key),
      contents: async () => ({
        rows: all<{ key: string }>('SELECT key FROM rows').map(({ key }) => key),
        events: all<{ headers: string }>('SELECT headers FROM outbox_events WHERE state < 2').map(
          ({ headers }) => headersOf(headers),
        ),
        dead: all('SELECT 1 FROM outbox_events WHERE state = 3').length,
        payloads: all<{ id: string }>('SELECT id FROM saga_store').map(({ id }) => id),
      }),
      async close() {
        await outbox.close()
        db.close()
      },
    }
  },
}

const postgres: FaultAdapter = {
  name: 'postgres-drizzle',
  server: 'postgres',
  async open(url, schema) {
    const pool = new pg.Pool({ connectionString: url, max: 4 })
    pool.on('error', () => {})
    const db = drizzle(pool)
    const outbox = new PostgresDrizzleOutbox(db, { schema, logger: false })
    const all = async <Row extends object>(text: string): Promise<Row[]> => (await pool.query<Row>(text)).rows
    return {
      outbox: outbox as unknown as Outbox,
      async prepare() {
        await pool.query(`CREATE SCHEMA ${schema}; CREATE TABLE ${schema}.rows (key text)`)
        await outbox.initialize()
      },
      write: (tx, key) =>
        (tx as typeof db).execute(sql`INSERT INTO ${sql.identifier(schema)}.rows VALUES (${key})`),
      contents: async () => ({
        rows: (await all<{ key: string }>(`SELECT key FROM ${schema}.rows`)).map(({ key }) => key),
        events: (
          await all<{ headers: string }>(`SELECT headers FROM ${schema}.outbox_events WHERE state < 2`)
        ).map(({ headers }) => headersOf(headers)),
        dead: (await all(`SELECT 1 FROM ${schema}.outbox_events WHERE state = 3`)).length,
        payloads: (await all<{ id: string }>(`SELECT id FROM ${schema}.saga_store`)).map(({ id }) => id),
      }),
      close: () => pool.end(),
    }
  },
}

const redis: FaultAdapter = {
  name: 'redis-ioredis',
  server: 'redis',
  async open(url, prefix) {
    const client = new Redis(url)
    client.on('error', () => {})
    const outbox = new RedisIoredisOutbox<ChainableCommander>(client, { prefix, logger: false })
    const key = (name: string): string => `{${prefix}}:${name}`
    return {
      outbox: outbox as unknown as Outbox,
      prepare: () => outbox.initialize(),
      write: (tx, row) => void (tx as ChainableCommander).rpush(key('rows'), row),
      async contents() {
        const events = await Promise.all(
          (await client.keys(key('event:*'))).map((name) => client.hmget(name, 'headers', 'state')),
        )
        const open = events.filter(([, state]) => state === 'waiting' || state === 'leased')
        return {
          rows: await client.lrange(key('rows'), 0, -1),
          events: open.map(([headers]) => headersOf(headers)),
          dead: events.filter(([, state]) => state === 'dead').length,
          payloads: (await client.keys(key('saga:*'))).map((name) => name.slice(key('saga:').length)),
        }
      },
      close: async () => void client.disconnect(),
    }
  },
}

const mongodb: FaultAdapter = {
  name: 'mongodb',
  server: 'mongodb',
  async open(url, database) {
    const client = await new MongoClient(url).connect()
    const db = client.db(database)
    const outbox = new MongoDBOutbox<ClientSession>(client, { database, logger: false })
    return {
      outbox: outbox as unknown as Outbox,
      async prepare() {
        await outbox.initialize()
        await db.createCollection('rows')
      },
      write: (tx, key) => db.collection('rows').insertOne({ key }, { session: tx as ClientSession }),
      async contents() {
        const events = await db.collection('outbox_events').find().toArray()
        return {
          rows: (await db.collection('rows').find().toArray()).map(({ key }) => key as string),
          events: events.filter(({ open }) => open).map(({ headers }) => headersOf(headers)),
          dead: events.filter(({ state }) => state === 'dead').length,
          payloads: (await db.collection('saga_store').find().toArray()).map(({ _id }) => String(_id)),
        }
      },
      close: () => client.close(),
    }
  },
}

const dynamodb: FaultAdapter = {
  name: 'dynamodb-aws-sdk',
  server: 'dynamodb',
  async open(url, place) {
    const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }
    const client = DynamoDBDocumentClient.from(
      new DynamoDBClient({ endpoint: url, region: 'local', credentials }),
    )
    const tables = { events: `${place}_events`, payloads: `${place}_payloads` }
    const outbox = new DynamoDBAwsSdkOutbox(client, { tables, logger: false })
    const scan = async (TableName: string): Promise<Record<string, unknown>[]> => {
      const items: Record<string, unknown>[] = []
      for (let start: Record<string, unknown> | undefined; ; ) {
        const page = await client.send(
          new ScanCommand({ TableName, ConsistentRead: true, ExclusiveStartKey: start }),
        )
        items.push(...(page.Items ?? []))
        start = page.LastEvaluatedKey
        if (!start) return items
      }
    }
    return {
      outbox: outbox as unknown as Outbox,
      prepare: () => outbox.initialize(),
      // The rows are items of the payloads' table, under ids that no claim has.
      write: (tx, key) =>
        (tx as DynamoDBTransaction).put({ TableName: tables.payloads, Item: { id: `row#${key}` } }),
      async contents() {
        const events = await scan(tables.events)
        const items = (await scan(tables.payloads)).map(({ id }) => String(id))
        return {
          rows: items.filter((id) => id.startsWith('row#')).map((id) => id.slice(4)),
          events: events.filter(({ due_shard }) => due_shard).map(({ headers }) => headersOf(headers)),
          dead: events.filter(({ state }) => state === 'dead').length,
          payloads: items.filter((id) => !id.startsWith('row#')),
        }
      },
      close: async () => client.destroy(),
    }
  },
}

export const ADAPTERS: readonly FaultAdapter[] = [sqlite, postgres, redis, mongodb, dynamodb]
