import { randomUUID } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import type { Outbox } from 'outbox-core'
import { PostgresDrizzleOutbox } from 'outbox-postgres-drizzle'
import pg from 'pg'
import { armsOn, type Contender, type Database, type OpenOptions, type Ours, polling } from '../contender.ts'
import { ours } from '../ours.ts'
import { dbos } from './dbos.ts'
import { graphileWorker, pgBoss, pgBossStrict, pgBossWork } from './postgres-peers.ts'
import { throughPrisma } from './postgres-prisma.ts'
import { openSchema } from './postgres-schema.ts'
import { sharedServer } from './servers.ts'

type Tx = Parameters<Parameters<ReturnType<typeof drizzle>['transaction']>[0]>[0]

interface Opened {
  /** A schema. */
  readonly place: string
  readonly pool: pg.Pool
  readonly db: ReturnType<typeof drizzle>
  readonly outbox: Outbox<Tx>
  close(): Promise<void>
}

async function open(connectionString: string, options: OpenOptions): Promise<Opened> {
  const { schema, pool, close } = await openSchema(connectionString, options)
  const listener = options.listen ? new pg.Client({ connectionString }) : undefined
  await listener?.connect()
  const db = drizzle(pool)
  const outbox = new PostgresDrizzleOutbox(db, { schema, logger: false, ...(listener && { listener }) })
  await outbox.initialize()
  return {
    place: schema,
    pool,
    db,
    outbox: outbox as unknown as Outbox<Tx>,
    async close() {
      await listener?.end()
      await close()
    },
  }
}

async function openOurs(url: string, options: OpenOptions): Promise<Ours> {
  const { place, outbox, close } = await open(url, options)
  const business = sql.raw(`INSERT INTO ${place}.business VALUES (1)`)
  return ours<Tx>({ place, outbox, write: (tx) => tx.execute(business), close }, options)
}

function byHand({ place, pool, close }: Opened): Contender {
  const events = `${place}.outbox_events`
  const columns = '(id, type, body, headers, created_at, visible_at)'
  const insert = `INSERT INTO ${events} ${columns} VALUES ($1, 'noop', $2, '{}', now(), now())`
  const parameters = (payload: object): string[] => [randomUUID(), JSON.stringify(payload)]
  return {
    place,
    emit: (payload) => pool.query(insert, parameters(payload)),
    async emitInTransaction(payload) {
      const client = await pool.connect()
      await client.query('BEGIN')
      await client.query(`INSERT INTO ${place}.business VALUES (1)`)
      await client.query(insert, parameters(payload))
      await client.query('COMMIT')
      client.release()
    },
    async emitMany(payloads) {
      const rows = payloads.map(parameters)
      await pool.query(
        `INSERT INTO ${events} ${columns}
         SELECT id, 'noop', body, '{}', now(), now() FROM unnest($1::text[], $2::text[]) AS e (id, body)`,
        [rows.map(([id]) => id), rows.map(([, body]) => body)],
      )
    },
    async consume(handle) {
      return polling(async () => {
        const { rows } = await pool.query(`WITH due AS MATERIALIZED (
            SELECT id FROM ${events} WHERE state < 2 AND visible_at <= now() ORDER BY visible_at, seq
            LIMIT 100 FOR UPDATE SKIP LOCKED)
          UPDATE ${events} e SET state = 1, attempt = attempt + 1, visible_at = now() + interval '30 s'
          FROM due WHERE e.id = due.id RETURNING e.id, e.type, e.body, e.headers, e.created_at, e.attempt`)
        if (rows.length === 0) return 0
        for (const { body, headers } of rows) {
          JSON.parse(headers)
          handle(JSON.parse(body))
        }
        await pool.query(
          `DELETE FROM ${events} e USING unnest($1::text[], $2::int[]) AS held (id, attempt)
           WHERE e.id = held.id AND e.attempt = held.attempt AND state = 1`,
          [rows.map(({ id }) => id), rows.map(({ attempt }) => attempt)],
        )
        return rows.length
      })
    },
    async pending() {
      const { rows } = await pool.query(`SELECT count(*)::int AS pending FROM ${events}`)
      return rows[0].pending
    },
    store: {
      put: (id, data) =>
        pool.query(`INSERT INTO ${place}.saga_store VALUES ($1, $2, now() + interval '7 days')`, [id, data]),
      get: (id) =>
        pool.query(`SELECT data FROM ${place}.saga_store WHERE id = $1 AND expires_at > now()`, [id]),
    },
    close,
  }
}

/** Rows of a table that has nothing but their order. */
function oneKey({ place, pool, close }: Opened): Contender {
  const table = `${place}.by_hand`
  const created = pool.query(
    `CREATE TABLE ${table} (seq bigserial PRIMARY KEY, key text, body text); CREATE INDEX ON ${table} (key, seq)`,
  )
  const emitMany = async (payloads: readonly object[]): Promise<void> => {
    await created
    await pool.query(
      `INSERT INTO ${table} (key, body) SELECT 'key-0', body FROM unnest($1::text[]) AS e (body)`,
      [payloads.map((payload) => JSON.stringify(payload))],
    )
  }
  return {
    place,
    emit: (payload) => emitMany([payload]),
    emitMany,
    async consume(handle) {
      return polling(async () => {
        const { rows } = await pool.query(
          `SELECT seq, body FROM ${table} WHERE key = 'key-0' ORDER BY seq LIMIT 100`,
        )
        for (const { body } of rows) await handle(JSON.parse(body))
        if (rows.length > 0)
          await pool.query(`DELETE FROM ${table} WHERE key = 'key-0' AND seq <= $1`, [rows.at(-1).seq])
        return rows.length
      })
    },
    async pending() {
      const { rows } = await pool.query(`SELECT count(*)::int AS pending FROM ${table}`)
      return rows[0].pending
    },
    close,
  }
}

/** Emitting through the ORM that ours goes through as well. */
function throughDrizzle(opened: Opened): Contender {
  const { place, db } = opened
  const insert = ({ n }: { readonly n: number }) =>
    sql`INSERT INTO ${sql.raw(place)}.outbox_events (id, type, body, headers, created_at, visible_at)
      VALUES (${randomUUID()}, 'noop', ${JSON.stringify({ n })}, '{}', now(), now())`
  return {
    ...byHand(opened),
    emit: async (payload) => void (await db.execute(insert(payload))),
    emitInTransaction: (payload) =>
      db.transaction(async (tx) => {
        await tx.execute(sql.raw(`INSERT INTO ${place}.business VALUES (1)`))
        await tx.execute(insert(payload))
      }),
  }
}

function naively(opened: Opened): Contender {
  const { place, pool } = opened
  return {
    ...byHand(opened),
    consume: async (handle) =>
      polling(async () => {
        const { rows } = await pool.query(`SELECT seq, body FROM ${place}.outbox_events ORDER BY seq LIMIT 1`)
        if (rows.length === 0) return 0
        handle(JSON.parse(rows[0].body))
        await pool.query(`DELETE FROM ${place}.outbox_events WHERE seq = $1`, [rows[0].seq])
        return 1
      }),
  }
}

const SETTINGS = ['server_version', 'synchronous_commit', 'fsync', 'shared_buffers']

export async function postgres(): Promise<Database | undefined> {
  const url = await sharedServer('postgres')
  if (url === undefined) return undefined
  const arm = armsOn((options) => open(url, options))
  const prisma = throughPrisma(url)
  return {
    name: 'postgres',
    floor: arm('node-postgres by hand', 'floor', byHand),
    ours: { name: 'ours', role: 'ours', open: (options = {}) => openOurs(url, options) },
    alsoOurs: [prisma.ours],
    oneKeyByHand: arm('node-postgres by hand, 100 of the key', 'floor', oneKey),
    naive: { ...arm('naive: one row a time', 'other', naively), share: 0.05 },
    others: [arm('Drizzle by hand', 'other', throughDrizzle), prisma.byHand],
    peers: {
      emit: [pgBoss(url), graphileWorker(url, 'default')],
      drain: [pgBoss(url), graphileWorker(url, 'default'), graphileWorker(url, 'batched')],
      latency: [pgBossWork(url), graphileWorker(url, 'default')],
      sagas: [dbos(url)],
      keyed: [pgBossStrict(url), graphileWorker(url, 'queues')],
    },
    sizes: {
      emits: 2_000,
      drain: 40_000,
      sagas: 1_000,
      payloads: 1_000,
      openLoop: [100, 1_000],
      backlogs: [10_000, 100_000, 1_000_000],
      batch: 500,
    },
    drainTarget: 0.7,
    async describe() {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      const settings: [string, string][] = []
      for (const setting of SETTINGS)
        settings.push([setting, (await client.query(`SHOW ${setting}`)).rows[0][setting]])
      await client.end()
      return Object.fromEntries(settings)
    },
  }
}
