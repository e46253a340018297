import { drizzle } from 'drizzle-orm/node-postgres'
import { OutboxEventBus } from 'outbox-core'
import { recordingLogger, until } from 'outbox-core/testing'
import pg from 'pg'
import postgres from 'postgres'
import { describe, expect, test } from 'vitest'
import { PostgresPlace } from '../../../test/postgres-place.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { PostgresDrizzleOutbox, type PostgresListener } from '../src/index.ts'
import { nodePostgres } from './clients.ts'

const url = serverUrl()
const UNPOLLED = { poll: { min: 3_600_000, max: 3_600_000 } }

describe.skipIf(url === undefined)('a connection that listens and is ended by the server', () => {
  if (url === undefined) return
  const place = new PostgresPlace(url, nodePostgres)
  const name = () => `${place.schema}_listening`
  const listening = async (): Promise<number[]> => {
    const text = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query ILIKE 'listen%'"
    return (await place.raw.query(text, [name()])).rows.map(({ pid }) => pid)
  }

  /** A bus that is woken through the listener and never polls, and one that emits. */
  const started = async (listener: PostgresListener, poll = UNPOLLED) => {
    const { client } = await place.initialized(2)
    const logger = recordingLogger()
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    place.closing(() => pool.end())
    const options = { schema: place.schema, logger }
    const bus = new OutboxEventBus(new PostgresDrizzleOutbox(drizzle(pool), { ...options, listener }), poll)
    const handled: unknown[] = []
    bus.on('a', ({ payload }) => void handled.push(payload))
    await place.started(bus)
    const emitter = new OutboxEventBus(client.outbox({ ...options, notify: true }))
    const emit = (payload: number) => emitter.emit('a', payload)
    const ends = async (): Promise<void> => {
      await until(async () => (await listening()).length === 1)
      for (const pid of await listening())
        await place.raw.query('SELECT pg_terminate_backend($1, 5000)', [pid])
    }
    return { bus, emit, handled, ends, logger }
  }
  const settings = () => ({ connectionString: url, application_name: name() })

  test.each(['connected by us', 'connected already'])(
    'is made again by the function that made it, %s',
    async (how) => {
      const made: pg.Client[] = []
      const listener = async () => {
        const client = new pg.Client(settings())
        made.push(client)
        if (how === 'connected already') await client.connect()
        return client
      }
      const { bus, emit, handled, ends, logger } = await started(listener)
      await emit(1)
      await until(() => handled.length === 1)
      for (const n of [2, 4]) {
        await ends()
        await emit(n)
        await until(async () => (await listening()).length === 1)
        await until(() => handled.length === n)
        await emit(n + 1)
        await until(() => handled.length === n + 1)
      }
      expect(made).toHaveLength(3)
      expect(logger.lines.map(({ level, message }) => [level, message])).toEqual([
        ['warn', expect.stringContaining('until they can again')],
        ['info', 'other processes wake this one again'],
        ['warn', expect.stringContaining('until they can again')],
        ['info', 'other processes wake this one again'],
      ])
      await bus.stop()
      await until(async () => (await listening()).length === 0)
    },
  )

  test('is looked for until the server lets it in again', async () => {
    let tries = 0
    const nowhere = Object.assign(new URL(url), { port: '1' }).href
    const { emit, handled, logger } = await started(
      () => new pg.Client({ ...settings(), ...(++tries < 3 && { connectionString: nowhere }) }),
    )
    await until(async () => (await listening()).length === 1)
    await emit(1)
    await until(() => handled.length === 1)
    expect([tries, logger.lines.length]).toEqual([3, 2])
  })

  test('is deaf when it was handed over: the log says so, nothing else ends, and polling goes on', async () => {
    const client = new pg.Client(settings())
    await client.connect()
    const { emit, handled, ends, logger } = await started(client, { poll: { min: 10, max: 20 } })
    await ends()
    await until(() => logger.lines.length > 0)
    await emit(1)
    await until(() => handled.length === 1)
    expect(logger.lines).toMatchObject([
      {
        level: 'warn',
        message: expect.stringContaining('from now on'),
        fields: {
          err: { code: 'OUTBOX_STORAGE', message: expect.stringContaining('listener: () => new pg.Client') },
        },
      },
    ])
  })

  test('is brought back by postgres.js itself, and what it has missed is looked for', async () => {
    const sql = postgres(url, { max: 1, onnotice: () => {}, connection: { application_name: name() } })
    const { emit, handled, ends, bus } = await started(sql)
    await ends()
    await emit(1)
    await until(() => handled.length === 1)
    await emit(2)
    await until(() => handled.length === 2)
    await bus.stop()
    await sql.end({ timeout: 1 })
  })
})
