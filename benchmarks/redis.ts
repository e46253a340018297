import { Queue, Worker } from 'bullmq'
import { type ChainableCommander, Redis } from 'ioredis'
import { RedisIoredisOutbox } from 'outbox-redis-ioredis'
import { startServer } from '../test/servers/index.ts'
import { type Arm, assertDelivered, type Workload } from './measure.ts'
import { drain, type Fresh, sagas } from './ours.ts'

const BATCH = 500

const LEASE_BY_HAND = `
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
local out = {}
for i, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], ARGV[2], id)
  out[#out + 1] = id
  out[#out + 1] = redis.call('HGET', KEYS[2], id)
end
return out`
const DONE_BY_HAND = `
redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))`

export async function redis(scale: number): Promise<readonly Workload[]> {
  const server = await startServer('redis')
  if (!server) return []
  const { url } = server
  const events = Math.round(40_000 * scale)
  const connect = (): Redis => new Redis(url, { maxRetriesPerRequest: null })

  const open = async (): Promise<Fresh<ChainableCommander>> => {
    const client = connect()
    await client.flushall()
    const outbox = new RedisIoredisOutbox<ChainableCommander>(client, { logger: false })
    await outbox.initialize()
    return { outbox, write: () => {}, close: () => client.disconnect() }
  }

  const byHand: Arm = {
    name: 'Lua by hand',
    async run(time) {
      const client = connect()
      await client.flushall()
      for (let from = 0; from < events; from += BATCH) {
        const pipeline = client.pipeline()
        for (let n = from; n < from + BATCH; n++) {
          pipeline.zadd('due', Date.now(), `${n}`)
          pipeline.hset('bodies', `${n}`, `{"n":${n}}`)
        }
        await pipeline.exec()
      }
      let handled = 0
      await time(async () => {
        for (;;) {
          const now = Date.now()
          const rows = (await client.eval(LEASE_BY_HAND, 2, 'due', 'bodies', now, now + 30_000)) as string[]
          if (rows.length === 0) return
          const ids = rows.filter((_, index) => index % 2 === 0)
          for (let index = 1; index < rows.length; index += 2) if (JSON.parse(rows[index] ?? '')) handled++
          await client.eval(DONE_BY_HAND, 2, 'due', 'bodies', ...ids)
        }
      })
      assertDelivered(events, handled)
      client.disconnect()
      return events
    },
  }

  const bullmq: Arm = {
    name: 'BullMQ, concurrency 24',
    async run(time) {
      const client = connect()
      await client.flushall()
      const queue = new Queue('bench', { connection: client })
      for (let from = 0; from < events; from += BATCH) {
        const options = { removeOnComplete: true }
        await queue.addBulk(
          Array.from({ length: BATCH }, (_, n) => ({ name: 'noop', data: { n: from + n }, opts: options })),
        )
      }
      let handled = 0
      const done = Promise.withResolvers<void>()
      const own = connect()
      await time(async () => {
        const worker = new Worker(
          'bench',
          async () => {
            if (++handled === events) done.resolve()
          },
          { connection: own, concurrency: 24 },
        )
        await done.promise
        await worker.close()
      })
      assertDelivered(events, handled)
      await queue.close()
      client.disconnect()
      own.disconnect()
      return events
    },
  }

  return [
    {
      name: 'redis: drain no-op events, concurrency 24',
      target: 0.5,
      arms: [byHand, drain(open, events, 24), bullmq],
    },
    { name: 'redis: three-step sagas, steps', arms: [sagas(open, Math.round(2_000 * scale), 0)] },
  ]
}
