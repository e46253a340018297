import { randomUUID } from 'node:crypto'
import { drizzle as overMySql } from 'drizzle-orm/mysql-proxy'
import { drizzle as overNodePostgres } from 'drizzle-orm/node-postgres'
import { OutboxEventBus } from 'outbox-core'
import { until } from 'outbox-core/testing'
import pg from 'pg'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FaultyNetwork } from '../../../test/faults/proxy.ts'
import { postgresFaults } from '../../../test/postgres-faults.ts'
import { postgresKeys } from '../../../test/postgres-keys.ts'
import { postgresParts } from '../../../test/postgres-parts.ts'
import { postgresRefusals } from '../../../test/postgres-refusals.ts'
import { postgresRepeats } from '../../../test/postgres-repeats.ts'
import { postgresSuite } from '../../../test/postgres-suite.ts'
import { postgresUpgrades } from '../../../test/postgres-upgrades.ts'
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
  const single = expect.objectContaining({ message: expect.stringContaining('new pg.Pool({ max: 1 })') })
  expect(construct(overNodePostgres(new pg.Client()))).toThrowError(single)
  await pool.end()
})

describe.skipIf(url === undefined)('Postgres', () => {
  if (url === undefined) return
  postgresSuite('Drizzle on node-postgres', url, nodePostgres)
  postgresSuite('Drizzle on postgres.js', url, postgresJs)
  postgresFaults('Drizzle on node-postgres, faults', url, nodePostgres)
  postgresFaults('Drizzle on postgres.js, faults', url, postgresJs, { hears: true })
  postgresRepeats('Drizzle on node-postgres, answers lost', url, nodePostgres)
  postgresKeys('Drizzle on node-postgres, keys', url, nodePostgres, { isolationLevel: 'repeatable read' })
  postgresKeys('Drizzle on postgres.js, keys', url, postgresJs, { isolationLevel: 'repeatable read' })
  postgresParts('Drizzle on node-postgres, parts', url, nodePostgres)
  postgresParts('Drizzle on postgres.js, parts', url, postgresJs)
  postgresRefusals('Drizzle on node-postgres, refusals', url, nodePostgres)
  postgresRefusals('Drizzle on postgres.js, refusals', url, postgresJs)
  postgresUpgrades('Drizzle on node-postgres, upgrades', url, nodePostgres)
  postgresUpgrades('Drizzle on postgres.js, upgrades', url, postgresJs)

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

    test('a BEGIN that fails gives the pool its connection back', async () => {
      const pool = new pg.Pool({ connectionString: url, max: 1, connectionTimeoutMillis: 5_000 })
      const outbox = new PostgresDrizzleOutbox(overNodePostgres(pool), { logger: false })
      const failing = outbox.transaction(() => 1, { isolationLevel: 'none such' as never })
      await expect(failing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE' })
      expect(await outbox.transaction(() => 2)).toBe(2)
      expect([pool.totalCount, pool.idleCount]).toEqual([1, 1])
      await pool.end()
    })

    test('a query that node-postgres gave up waiting for is an unknown outcome', async () => {
      const network = await FaultyNetwork.start(url)
      const pool = new pg.Pool({ connectionString: network.url, max: 1, query_timeout: 2_000 })
      pool.on('error', () => {})
      const outbox = new PostgresDrizzleOutbox(overNodePostgres(pool), { schema, logger: false })
      await outbox.initialize()
      network.freeze()
      const emitting = new OutboxEventBus(outbox).emit('a', 1)
      await expect(emitting).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
      await network.close()
      await pool.end()
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
      const emitter = new OutboxEventBus(client.outbox({ schema, notify: true, logger: false }))
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
      // Those of the test before may still be ending.
      await until(async () => {
        const { rows } = await raw.query('SELECT FROM pg_stat_activity WHERE application_name = $1', [schema])
        return rows.length === 2
      })
      await Promise.all([listening.end(), js.end(), client.close()])
    })

    test('two buses share a listener: one that stops leaves the other listening, and a dead one stops neither', async () => {
      const listener = new pg.Client(url)
      listener.on('error', () => {})
      await listener.connect()
      const client = await nodePostgres(url, schema, 1)
      const outbox = new PostgresDrizzleOutbox(overNodePostgres(client.pool), {
        ...{ schema, tables: { events: 'shared' }, listener, logger: false },
      })
      await outbox.initialize()
      const woken = [0, 0]
      const [endFirst, endSecond] = await Promise.all(
        woken.map((_, index) =>
          outbox.storage.listen?.(() => {
            woken[index] = (woken[index] ?? 0) + 1
          }),
        ),
      )
      await outbox.storage.announce?.()
      await until(() => woken.join() === '1,1')
      await endFirst?.()
      await outbox.storage.announce?.()
      await until(() => woken.join() === '1,2')
      await raw.query('SELECT pg_terminate_backend($1, 5000)', [
        (listener as unknown as { processID: number }).processID,
      ])
      await endSecond?.()
      const bus = new OutboxEventBus(outbox, { poll: { min: 10, max: 20 } })
      let handled = 0
      bus.on('a', () => {
        handled++
      })
      await expect(outbox.storage.listen?.(() => {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE' })
      await bus.start()
      await new OutboxEventBus(client.outbox({ schema, tables: { events: 'shared' } })).emit('a', 1)
      await until(() => handled === 1)
      await bus.stop()
      await client.close()
    })
  })
})
