import { setTimeout as sleep } from 'node:timers/promises'
import { Logger, makeWorkerUtils, run, runMigrations } from 'graphile-worker'
import pg from 'pg'
import { PgBoss } from 'pg-boss'
import { type Arm, type Contender, keyOf, type OpenOptions, polling } from '../contender.ts'
import { newPlace } from './servers.ts'

interface Schema {
  readonly place: string
  readonly pool: pg.Pool
  drop(): Promise<void>
}

function schema(connectionString: string, { place }: OpenOptions): Schema {
  const pool = new pg.Pool({ connectionString, max: 24 })
  // Graphile Worker insists on both.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  const name = place ?? newPlace()
  return {
    place: name,
    pool,
    async drop() {
      if (place === undefined) await pool.query(`DROP SCHEMA ${name} CASCADE`)
      await pool.end()
    },
  }
}

/** One business row and whatever `emit` does on the same connection. */
async function inTransaction(
  { pool, place }: Schema,
  emit: (client: pg.PoolClient) => Promise<unknown>,
): Promise<void> {
  const client = await pool.connect()
  await client.query('BEGIN')
  await client.query(`INSERT INTO ${place}.business VALUES (1)`)
  await emit(client)
  await client.query('COMMIT')
  client.release()
}

async function count({ pool }: Schema, query: string): Promise<number> {
  const { rows } = await pool.query(`SELECT count(*)::int AS count FROM ${query}`)
  return rows[0].count
}

async function openPgBoss(url: string, options: OpenOptions): Promise<Contender & { readonly boss: PgBoss }> {
  const own = schema(url, options)
  const { place, pool } = own
  const useListenNotify = options.listen ?? false
  const boss = new PgBoss({
    connectionString: url,
    schema: place,
    max: 24,
    supervise: false,
    schedule: false,
    useListenNotify,
  })
  boss.on('error', () => {})
  await boss.start()
  const { keys } = options
  const policy = keys === undefined ? ({} as const) : ({ policy: 'key_strict_fifo' } as const)
  if (options.place === undefined) await boss.createQueue('noop', { notify: useListenNotify, ...policy })
  await pool.query(`CREATE TABLE IF NOT EXISTS ${place}.business (n int)`)
  return {
    boss,
    place,
    emit: (payload) => boss.send('noop', payload),
    emitInTransaction: (payload) =>
      inTransaction(own, (client) =>
        boss.send('noop', payload, {
          db: { executeSql: (text, values) => client.query(text, values as unknown[]) },
        }),
      ),
    emitMany: (payloads) =>
      boss.insert(
        'noop',
        payloads.map((data) => ({ data, ...(keys !== undefined && { singletonKey: keyOf(data, keys) }) })),
      ),
    async consume(handle) {
      return polling(async () => {
        const jobs = await boss.fetch<{ n: number }>('noop', { batchSize: 100 })
        for (const { data } of jobs) handle(data)
        if (jobs.length > 0) {
          const ids = jobs.map(({ id }) => id)
          await boss.complete('noop', ids)
        }
        return jobs.length
      })
    },
    pending: () => count(own, `${place}.job WHERE name = 'noop' AND state < 'completed'`),
    async close() {
      await boss.stop({ graceful: false })
      await own.drop()
    },
  }
}

export function pgBoss(url: string): Arm {
  return {
    name: 'pg-boss, fetch and complete by 100',
    role: 'peer',
    open: (options = {}) => openPgBoss(url, options),
  }
}

/** One job of a key at a time, in order. */
export function pgBossStrict(url: string): Arm {
  return { ...pgBoss(url), name: 'pg-boss, key_strict_fifo', share: 0.05 }
}

/** Its workers, woken by NOTIFY. */
export function pgBossWork(url: string): Arm {
  return {
    name: 'pg-boss, work with NOTIFY',
    role: 'peer',
    async open(options = {}) {
      const contender = await openPgBoss(url, options)
      const { boss } = contender
      return {
        ...contender,
        async consume(handle) {
          const polls = { batchSize: 100, pollingIntervalSeconds: 0.5 }
          await boss.work<{ n: number }>('noop', polls, async (jobs) => {
            for (const { data } of jobs) handle(data)
          })
          return () => boss.offWork('noop', { wait: true })
        },
      }
    },
  }
}

const GRAPHILE_BATCHES = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }

export function graphileWorker(url: string, how: 'default' | 'batched' | 'queues'): Arm {
  return {
    name: `graphile-worker, ${how}`,
    role: 'peer',
    ...(how !== 'batched' && { share: how === 'queues' ? 0.05 : 0.25 }),
    open: (options = {}) => openGraphileWorker(url, how, options),
  }
}

async function openGraphileWorker(
  url: string,
  how: 'default' | 'batched' | 'queues',
  options: OpenOptions,
): Promise<Contender> {
  const own = schema(url, options)
  const { place, pool } = own
  const { keys } = options
  const settings = { pgPool: pool, schema: place, logger: new Logger(() => () => {}) }
  await runMigrations(settings)
  await pool.query(`CREATE TABLE IF NOT EXISTS ${place}.business (n int)`)
  const utils = await makeWorkerUtils(settings)
  const pending = (): Promise<number> => count(own, `${place}._private_jobs`)
  return {
    place,
    emit: (payload) => utils.addJob('noop', payload),
    emitInTransaction: (payload) =>
      inTransaction(own, (client) =>
        client.query(`SELECT ${place}.add_job('noop', $1::json)`, [JSON.stringify(payload)]),
      ),
    emitMany: (payloads) =>
      utils.addJobs(
        payloads.map((payload) => ({
          identifier: 'noop',
          payload,
          ...(keys !== undefined && { queueName: keyOf(payload, keys) }),
        })),
      ),
    async consume(handle, concurrency) {
      const runner = await run({
        ...settings,
        concurrency,
        noHandleSignals: true,
        taskList: { noop: async (payload) => handle(payload as { n: number }) },
        ...(how === 'batched' && { preset: { worker: GRAPHILE_BATCHES } }),
      })
      // Its stop does not wait for the last completions to be written.
      return async () => {
        for (let looks = 0; looks < 5_000 && (await pending()) > 0; looks++) await sleep(1)
        await runner.stop()
      }
    },
    pending,
    async close() {
      await utils.release()
      await own.drop()
    },
  }
}
