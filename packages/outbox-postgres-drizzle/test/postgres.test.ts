import { randomUUID } from 'node:crypto'
import { drizzle as overMySql } from 'drizzle-orm/mysql-proxy'
import { drizzle as overNodePostgres } from 'drizzle-orm/node-postgres'
import { OutboxEventBus } from 'outbox-core'
import pg from 'pg'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { postgresSuite, until } from '../../../test/postgres-suite.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { PostgresDrizzleOutbox, type PostgresListener } from '../src/index.ts'
import { nodePostgres, postgresJs } from './clients.ts'

const url = serverUrl()

test('refuses what is no Drizzle database for Postgres', async () => {
  const pool = new pg.Pool()
  const mysql = overMySql(async () => ({ rows: [] }))
  const db = overNodePostgres(pool)
  const construct = (db: unknown, options?: object) => () => new PostgresDrizzleOutbox(db as never, options)
  for (const wrong of [undefined, null, 'postgres://', {}, pool, mysql]) {
    expect(construct(wrong)).toThrowError(
      expect.objectContaining({ code: 'OUTBOX_CONFIGURATION', option: 'db' }),
    )
  }
  expect(construct(db, { schema: 'a"b' })).toThrowError(/option "schema" is/)
  expect(construct(db, { tables: { events: 'a; DROP TABLE b' } })).toThrowError(/option "tables.events" is/)
  expect(construct(db)).not.toThrow()
  await pool.end()
})

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  postgresSuite('Drizzle on node-postgres', url, nodePostgres)
  postgresSuite('Drizzle on postgres.js', url, postgresJs)

  describe('Drizzle', () => {
    const schema = `drizzle_${randomUUID().slice(0, 8)}`
    const raw = new pg.Client(url)
    beforeAll(async () => {
      await raw.connect()
      await raw.query(`CREATE SCHEMA ${schema}`)
    })
    afterAll(async () => {
      await raw.query(`DROP SCHEMA ${schema} CASCADE`)
      await raw.end()
    })

    test('takes only transactions of its own database, savepoints included', async () => {
      const pool = new pg.Pool({ connectionString: url, max: 2 })
      const [db, other] = [overNodePostgres(pool), overNodePostgres(pool)]
      const outbox = new PostgresDrizzleOutbox(db, { schema, tables: { events: 'own' }, logger: false })
      await outbox.initialize()
      const bus = new OutboxEventBus(outbox)
      const emit = () => bus.emit('a', 1)
      await expect(outbox.enlist(db as never, emit)).rejects.toMatchObject({
        code: 'OUTBOX_TRANSACTION_MISSING',
      })
      await expect(outbox.enlist({} as never, emit)).rejects.toMatchObject({
        code: 'OUTBOX_FOREIGN_TRANSACTION',
      })
      await other.transaction(async (tx) => {
        await expect(outbox.enlist(tx, emit)).rejects.toMatchObject({ code: 'OUTBOX_FOREIGN_TRANSACTION' })
        await expect(bus.emit('a', 1, { transaction: tx })).rejects.toMatchObject({
          code: 'OUTBOX_FOREIGN_TRANSACTION',
        })
      })
      await db.transaction(async (tx) => {
        await tx.transaction((savepoint) => outbox.enlist(savepoint, emit))
        await tx
          .transaction(async (savepoint) => {
            await outbox.enlist(savepoint, emit)
            savepoint.rollback()
          })
          .catch(() => {})
      })
      const { rows } = await raw.query(`SELECT count(*)::int AS count FROM ${schema}.own`)
      expect(rows).toEqual([{ count: 1 }])
      await pool.end()
      await expect(emit()).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
      await expect(outbox.transaction(emit)).rejects.toMatchObject({
        code: 'OUTBOX_STORAGE',
        transient: false,
      })
    })

    test('hands Drizzle’s options through, and runs a serializable transaction again that lost', async () => {
      const client = await nodePostgres(url, schema)
      const outbox = client.outbox({ schema, logger: false })
      await outbox.initialize()
      await raw.query(`CREATE TABLE ${schema}.counter (n int); INSERT INTO ${schema}.counter VALUES (0)`)
      const bus = new OutboxEventBus(outbox)
      let runs = 0
      const increment = () =>
        outbox.transaction(
          async (tx) => {
            runs++
            const { rows } = (await tx.execute(`SELECT n FROM ${schema}.counter`)) as {
              rows: { n: number }[]
            }
            await tx.execute(`UPDATE ${schema}.counter SET n = ${(rows[0]?.n ?? 0) + 1}`)
            await bus.emit('incremented', 1)
          },
          { isolationLevel: 'serializable' },
        )
      await Promise.all([increment(), increment(), increment()])
      expect((await raw.query(`SELECT n FROM ${schema}.counter`)).rows).toEqual([{ n: 3 }])
      expect((await raw.query(`SELECT type FROM ${schema}.outbox_events`)).rows).toHaveLength(3)
      expect(runs).toBeGreaterThan(3)
      const writing = outbox.transaction(() => bus.emit('a', 1), { accessMode: 'read only' })
      await expect(writing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', cause: { code: '25006' } })
      await client.close()
    })

    test('a wake-up through LISTEN on the user’s connection, without polling and without a connection of ours', async () => {
      const listening = new pg.Client({ connectionString: url, application_name: schema })
      await listening.connect()
      const js = postgres(url, { max: 1, onnotice: () => {} })
      const client = await nodePostgres(url, schema, 1)
      const emitter = new OutboxEventBus(client.outbox({ schema, logger: false }))
      const options = { poll: { min: 60_000, max: 60_000 } }
      for (const listener of [listening, js] satisfies PostgresListener[]) {
        const outbox = new PostgresDrizzleOutbox(overNodePostgres(client.pool), {
          schema,
          listener,
          logger: false,
        })
        await outbox.initialize()
        const bus = new OutboxEventBus(outbox, options)
        const handled: unknown[] = []
        bus.on('woken', ({ payload }) => {
          handled.push(payload)
        })
        bus.on('incremented', () => {})
        await bus.start()
        await emitter.emit('woken', 1)
        await until(() => handled.length === 1)
        await client.transaction((tx) => emitter.emit('woken', 2, { transaction: tx }).then(() => {}))
        await emitter.emit('woken', 3)
        await until(() => handled.length === 3)
        await bus.stop()
      }
      const { rows } = await raw.query('SELECT 1 FROM pg_stat_activity WHERE application_name = $1', [schema])
      expect(rows).toHaveLength(2)
      await Promise.all([listening.end(), js.end(), client.close()])
    })
  })
})
