import { drizzle } from 'drizzle-orm/node-postgres'
import { makeWorkerUtils, run } from 'graphile-worker'
import type { Outbox } from 'outbox-core'
import { PostgresDrizzleOutbox } from 'outbox-postgres-drizzle'
import pg from 'pg'
import { PgBoss } from 'pg-boss'
import { startServer } from '../test/servers/index.ts'
import { type Arm, assertDelivered, type Workload } from './measure.ts'
import { drain, type Fresh, sagas } from './ours.ts'

const BATCH = 500

/** One schema for each run, dropped after it. */
function places(url: string) {
  let count = 0
  const pools: pg.Pool[] = []
  const pool = (): pg.Pool => {
    const made = new pg.Pool({ connectionString: url, max: 24 })
    made.on('error', () => {})
    pools.push(made)
    return made
  }
  const schema = async (made: pg.Pool): Promise<string> => {
    const name = `bench_${process.pid}_${count++}`
    await made.query(`CREATE SCHEMA ${name}`)
    return name
  }
  return { pool, schema }
}

export async function postgres(scale: number): Promise<readonly Workload[]> {
  const server = await startServer('postgres')
  if (!server) return []
  const { url } = server
  const { pool, schema } = places(url)
  const events = Math.round(40_000 * scale)

  type Tx = Parameters<Parameters<ReturnType<typeof drizzle>['transaction']>[0]>[0]
  const open = async (): Promise<Fresh<Tx> & { made: pg.Pool; name: string }> => {
    const made = pool()
    const name = await schema(made)
    const outbox = new PostgresDrizzleOutbox(drizzle(made), { schema: name, logger: false })
    await outbox.initialize()
    return {
      made,
      name,
      outbox: outbox as unknown as Outbox<Tx>,
      write: () => {},
      async close() {
        await made.query(`DROP SCHEMA ${name} CASCADE`)
        await made.end()
      },
    }
  }

  const byHand: Arm = {
    name: 'node-postgres by hand',
    async run(time) {
      const { made, name, close } = await open()
      for (let from = 0; from < events; from += BATCH) {
        await made.query(
          `INSERT INTO ${name}.outbox_events (id, type, body, headers, created_at, visible_at)
           SELECT gen_random_uuid()::text, 'noop', '{"n":' || n || '}', '{}', now(), now() FROM generate_series($1::int, $2::int) n`,
          [from, Math.min(events, from + BATCH) - 1],
        )
      }
      const client = await made.connect()
      let handled = 0
      await time(async () => {
        for (;;) {
          const { rows } = await client.query(`WITH due AS MATERIALIZED (
              SELECT id FROM ${name}.outbox_events WHERE state < 2 AND visible_at <= now() ORDER BY visible_at, seq
              LIMIT 100 FOR UPDATE SKIP LOCKED)
            UPDATE ${name}.outbox_events e SET state = 1, attempt = attempt + 1, visible_at = now() + interval '30 s'
            FROM due WHERE e.id = due.id RETURNING e.id, e.body`)
          if (rows.length === 0) return
          for (const { body } of rows) if (JSON.parse(body)) handled++
          const ids = rows.map(({ id }) => id)
          await client.query(`DELETE FROM ${name}.outbox_events WHERE id = ANY($1) AND state = 1`, [ids])
        }
      })
      client.release()
      assertDelivered(events, handled)
      await close()
      return events
    },
  }

  const graphile: Arm = {
    name: 'graphile-worker, batched',
    async run(time) {
      const made = pool()
      const name = await schema(made)
      const utils = await makeWorkerUtils({ pgPool: made, schema: name })
      await utils.migrate()
      for (let from = 0; from < events; from += BATCH) {
        await utils.addJobs(
          Array.from({ length: BATCH }, (_, n) => ({ identifier: 'noop', payload: { n: from + n } })),
        )
      }
      let handled = 0
      const done = Promise.withResolvers<void>()
      await time(async () => {
        const runner = await run({
          pgPool: made,
          schema: name,
          concurrency: 24,
          noHandleSignals: true,
          taskList: {
            noop: async () => {
              if (++handled === events) done.resolve()
            },
          },
          preset: {
            worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } as never,
          },
        })
        await done.promise
        await runner.stop()
      })
      assertDelivered(events, handled)
      await utils.release()
      await made.query(`DROP SCHEMA ${name} CASCADE`)
      await made.end()
      return events
    },
  }

  const boss: Arm = {
    name: 'pg-boss fetch and complete',
    async run(time) {
      const name = `bench_${process.pid}_boss${Math.random().toString(36).slice(2, 8)}`
      const queue = new PgBoss({
        connectionString: url,
        schema: name,
        supervise: false,
        schedule: false,
      })
      await queue.start()
      await queue.createQueue('noop')
      for (let from = 0; from < events; from += BATCH) {
        await queue.insert(
          'noop',
          Array.from({ length: BATCH }, (_, n) => ({ data: { n: from + n } })),
        )
      }
      let handled = 0
      await time(async () => {
        for (;;) {
          const jobs = await queue.fetch('noop', { batchSize: 100 })
          if (jobs.length === 0) return
          handled += jobs.length
          await queue.complete(
            'noop',
            jobs.map(({ id }) => id),
          )
        }
      })
      assertDelivered(events, handled)
      await queue.stop({ graceful: false })
      const made = pool()
      await made.query(`DROP SCHEMA ${name} CASCADE`)
      await made.end()
      return events
    },
  }

  return [
    {
      name: 'postgres: drain no-op events, concurrency 24',
      target: 0.7,
      arms: [byHand, drain(open, events, 24), graphile, boss],
    },
    { name: 'postgres: three-step sagas, steps', arms: [sagas(open, Math.round(1_000 * scale), 0)] },
  ]
}
