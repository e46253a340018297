import { randomUUID } from 'node:crypto'
import { drizzle as overNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as overPostgresJs } from 'drizzle-orm/postgres-js'
import { OutboxEventBus } from 'outbox-core'
import pg from 'pg'
import postgres from 'postgres'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { partOf } from '../../../test/postgres-backend.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { type DrizzleDatabase, type DrizzleTransaction, PostgresDrizzleOutbox } from '../src/index.ts'

const url = serverUrl()

describe.skipIf(url === undefined)('parts of a transaction and Drizzle’s own savepoints', () => {
  if (url === undefined) return
  const schema = `savepoints_${randomUUID().slice(0, 8)}`
  const raw = new pg.Client(url)
  const pool = new pg.Pool({ connectionString: url, max: 1 })
  const js = postgres(url, { max: 1, onnotice: () => {} })
  beforeAll(async () => {
    await raw.connect()
    await raw.query(`CREATE SCHEMA ${schema}`)
    await new PostgresDrizzleOutbox(overNodePostgres(pool), { schema }).initialize()
  })
  beforeEach(() => raw.query(`DELETE FROM ${schema}.outbox_events`))
  afterAll(async () => {
    await Promise.all([pool.end(), js.end()])
    await raw.query(`DROP SCHEMA ${schema} CASCADE`)
    await raw.end()
  })
  const types = async (): Promise<string[]> =>
    (await raw.query(`SELECT type FROM ${schema}.outbox_events ORDER BY seq`)).rows.map(({ type }) => type)

  interface Tx extends DrizzleTransaction {
    transaction<R>(work: (tx: Tx) => Promise<R>): Promise<R>
    execute(query: string | Parameters<DrizzleTransaction['execute']>[0]): PromiseLike<unknown>
  }
  const databases = [
    ['node-postgres', overNodePostgres(pool) as unknown as DrizzleDatabase<Tx, unknown>],
    ['postgres.js', overPostgresJs(js) as unknown as DrizzleDatabase<Tx, unknown>],
  ] as const

  describe.each(databases)('on %s', (_, db) => {
    const outbox = new PostgresDrizzleOutbox(db, { schema, logger: false })
    const bus = new OutboxEventBus(outbox)
    const emit = (transaction: Tx, type: string) => bus.emit(type, 1, { transaction })
    const failing = (tx: Tx) => tx.execute('SELECT 1 / 0')

    test('a savepoint in a part', async () => {
      await outbox.transaction(async (tx) => {
        await emit(tx, 'before')
        await partOf(outbox.storage, tx, async () => {
          await emit(tx, 'in.part')
          const undone = tx.transaction(async (savepoint) => {
            await emit(savepoint, 'in.savepoint')
            await failing(savepoint)
          })
          await expect(undone).rejects.toThrow()
          await tx.transaction((savepoint) => emit(savepoint, 'in.another'))
        })
        await emit(tx, 'after')
      })
      expect(await types()).toEqual(['before', 'in.part', 'in.another', 'after'])
    })

    test('a part in a savepoint', async () => {
      await outbox.transaction(async (tx) => {
        await tx.transaction(async (savepoint) => {
          await emit(savepoint, 'in.savepoint')
          const undone = partOf(outbox.storage, savepoint, async () => {
            await emit(savepoint, 'in.part')
            await failing(savepoint)
          })
          await expect(undone).rejects.toThrow()
          await partOf(outbox.storage, savepoint, () => emit(savepoint, 'in.another'))
        })
        await emit(tx, 'after')
      })
      expect(await types()).toEqual(['in.savepoint', 'in.another', 'after'])
    })

    test('a savepoint around a part and in it, both undone', async () => {
      await outbox.transaction(async (tx) => {
        const undone = tx.transaction(async (savepoint) => {
          await partOf(outbox.storage, savepoint, () =>
            savepoint.transaction((inner) => emit(inner, 'undone')),
          )
          savepoint.rollback()
        })
        await expect(undone).rejects.toThrow()
        await emit(tx, 'after')
      })
      expect(await types()).toEqual(['after'])
    })
  })

  test('after a part, postgres.js refuses the commit for what failed outside of it, as ever', async () => {
    const [, [, db]] = databases
    const outbox = new PostgresDrizzleOutbox(db, { schema, logger: false })
    const bus = new OutboxEventBus(outbox)
    for (const fails of [true, false]) {
      const swallowing = outbox.transaction(async (tx) => {
        await bus.emit('before', 1)
        const part = partOf(outbox.storage, tx, async () => {
          if (fails) await tx.execute('SELECT 1 / 0')
        })
        await part.catch(() => {})
        await Promise.resolve(tx.execute('SELECT 2 / 0')).catch(() => {})
      })
      await expect(swallowing).rejects.toMatchObject({ cause: { code: '22012' } })
    }
    expect(await types()).toEqual([])
  })

  test('a client that its user has closed does not come back', async () => {
    const closed = postgres(url, { max: 1 })
    const bus = new OutboxEventBus(
      new PostgresDrizzleOutbox(overPostgresJs(closed), { schema, logger: false }),
    )
    await closed.end()
    const gone = { code: 'OUTBOX_STORAGE', transient: false, cause: { code: 'CONNECTION_ENDED' } }
    await expect(bus.emit('a', 1)).rejects.toMatchObject(gone)
  })
})
