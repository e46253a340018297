import { drizzle as overNodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as overPostgresJs } from 'drizzle-orm/postgres-js'
import { type Outbox, OutboxEventBus, type Storage } from 'outbox-core'
import { until } from 'outbox-core/testing'
import pg from 'pg'
import postgres from 'postgres'
import { describe, expect, test } from 'vitest'
import { PostgresPlace } from '../../../test/postgres-place.ts'
import { startPgBouncer } from '../../../test/servers/pgbouncer.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { appending, newEvent, settling } from '../../outbox-core/src/testing/harness.ts'
import { PostgresDrizzleOutbox } from '../src/index.ts'
import { nodePostgres } from './clients.ts'

const url = serverUrl()

/** What a session, or a role, may be set to. */
const SETTINGS = {
  bytea_output: 'escape',
  DateStyle: 'SQL, DMY',
  TimeZone: 'Pacific/Chatham',
  IntervalStyle: 'sql_standard',
  standard_conforming_strings: 'off',
  extra_float_digits: '-15',
  default_transaction_isolation: 'repeatable read',
  search_path: 'pg_catalog',
  statement_timeout: '5s',
  plan_cache_mode: 'force_generic_plan',
} as const

describe.skipIf(url === undefined)('whatever a client is set to', () => {
  if (url === undefined) return
  const place = new PostgresPlace(url, nodePostgres)

  /** Two of a key, one after the other; nothing is unsure where nobody else writes. */
  const keepsOrder = async <Tx, O>(storage: Storage<Tx, O>): Promise<void> => {
    const ids = ['first', 'second']
    for (const id of ids) await storage.write([appending(newEvent({ id, type: 'keyed', key: '\\k' }))])
    for (const id of ids) {
      const addresses = [{ address: 'keyed', limit: 10 }]
      const [leased, ...more] = await storage.lease({ limit: 10, leaseMs: 60_000, addresses, behind: 1 })
      expect([leased, more]).toMatchObject([{ id, key: '\\k', address: 'keyed' }, []])
      expect(leased?.behind?.map((next) => next.id)).toEqual(id === 'first' ? ['second'] : undefined)
      const settle = { kind: 'complete', id, attempt: 1, key: '\\k', keepMs: 0 } as const
      expect(await storage.write([settling(settle)])).toEqual([{ status: 'applied' }])
    }
    expect(await storage.advance?.()).toEqual({ events: 0, busy: [] })
    expect((await storage.waiting()).map(({ address }) => address)).toEqual(['dies'])
  }

  /** Everything that is read comes back as it was written. */
  const works = async <Tx, O>(outbox: Outbox<Tx, O>): Promise<void> => {
    await outbox.initialize()
    const { storage } = outbox
    const data = Uint8Array.from({ length: 256 }, (_, n) => n)
    const bus = new OutboxEventBus(outbox, { poll: { max: 20 }, retry: { maxAttempts: 1 } })
    const since = Date.now()
    await outbox.transaction(async () => {
      await bus.emit('dies', { at: '\\ü' }, { id: 'chosen' })
      await storage.write([
        { append: [], put: [{ id: 'claim', data, expires: { inMs: 60_000 } }], remove: [] },
      ])
    })
    await expect(bus.emit('dies', 2, { id: 'chosen' })).rejects.toMatchObject({
      code: 'OUTBOX_DUPLICATE_EVENT',
    })
    expect(Buffer.from((await storage.getPayload('claim')) ?? [])).toEqual(Buffer.from(data))
    await keepsOrder(storage)
    bus.on('dies', ({ createdAt }) => {
      throw new Error(`after ${Math.abs(createdAt.getTime() - since) < 60_000 ? 'a moment' : 'an age'}`)
    })
    await place.started(bus)
    await until(async () => (await outbox.stats()).dead === 1)
    const { letters } = await outbox.deadLetters.list()
    expect(letters).toMatchObject([{ id: 'chosen', payload: { at: '\\ü' }, attempts: 1 }])
    expect(letters[0]?.error).toContain('after a moment')
    expect(Math.abs(Number(letters[0]?.diedAt) - since)).toBeLessThan(60_000)
    await bus.stop()
  }
  const options = () => ({ schema: place.schema, logger: false }) as const
  const onNodePostgres = (config: pg.PoolConfig) => {
    const pool = new pg.Pool({ max: 2, ...config })
    place.closing(() => pool.end())
    return new PostgresDrizzleOutbox(overNodePostgres(pool), options())
  }
  const onPostgresJs = (to: string, config: object) => {
    const sql = postgres(to, { max: 2, onnotice: () => {}, ...config })
    place.closing(() => sql.end({ timeout: 1 }))
    return new PostgresDrizzleOutbox(overPostgresJs(sql), options())
  }
  const set = async (): Promise<string> => {
    const as = await place.as(SETTINGS)
    await place.raw.query(`GRANT CREATE ON SCHEMA ${place.schema} TO ${place.schema}_user`)
    return as
  }

  test('node-postgres works with every setting of the session', async () => {
    await works(onNodePostgres({ connectionString: await set() }))
  })

  test('postgres.js works with every setting of the session', async () => {
    await works(onPostgresJs(await set(), {}))
  })

  test('node-postgres works with parsers of the user’s own', async () => {
    const own: Record<number, (text: string) => unknown> = {
      [pg.types.builtins.INT8]: BigInt,
      [pg.types.builtins.INT4]: BigInt,
      [pg.types.builtins.FLOAT8]: (text) => text,
      [pg.types.builtins.BOOL]: (text) => (text === 't' ? 'yes' : 'no'),
      [pg.types.builtins.BYTEA]: (text) => text,
      [pg.types.builtins.TIMESTAMPTZ]: (text) => text,
      [pg.types.builtins.JSON]: (text) => text,
    }
    const types = {
      getTypeParser: (oid: number, format?: 'text') => own[oid] ?? pg.types.getTypeParser(oid, format),
    }
    for (const [oid, parse] of Object.entries(own)) pg.types.setTypeParser(Number(oid), parse)
    await works(onNodePostgres({ connectionString: url, types: types as pg.CustomTypesConfig }))
  })

  test.each([
    { transform: postgres.camel },
    { transform: postgres.toCamel },
    { transform: { undefined: null } },
    { types: { bigint: postgres.BigInt } },
    { prepare: false },
  ])('postgres.js works with %o', async (config) => {
    await works(onPostgresJs(url, config))
  })

  test.each([
    { transform: postgres.toPascal },
    { transform: { row: { from: () => ({}) } } },
    { transform: { value: { from: (value: unknown) => `${value}`.toUpperCase() } } },
  ])('postgres.js is refused with %o: nothing could be read', async (config) => {
    await expect(onPostgresJs(url, config).initialize()).rejects.toMatchObject({
      code: 'OUTBOX_UNSUPPORTED_BACKEND',
      message: expect.stringContaining('without'),
    })
    expect(await place.tables()).toEqual([])
  })

  test('behind PgBouncer in transaction mode', async (context) => {
    const pooler = await startPgBouncer(url)
    if (!pooler) return context.skip('pgbouncer is not installed')
    place.closing(() => pooler.stop())
    const refused = onPostgresJs(pooler.url, {})
    const code = { code: 'OUTBOX_CONFIGURATION', message: expect.stringContaining('prepare: false') }
    await expect(refused.initialize()).rejects.toMatchObject(code)
    await expect(refused.transaction(async () => {})).rejects.toMatchObject(code)
    await works(onPostgresJs(pooler.url, { prepare: false }))
    await place.raw.query(`TRUNCATE ${place.schema}.outbox_events, ${place.schema}.saga_store`)
    await works(onNodePostgres({ connectionString: pooler.url }))
  })
})
