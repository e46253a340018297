import { randomUUID } from 'node:crypto'
import { type JobsOptions, Queue, Worker } from 'bullmq'
import { type ChainableCommander, Redis } from 'ioredis'
import { RedisIoredisOutbox } from 'outbox-redis-ioredis'
import { armsOn, type Contender, type Database, type OpenOptions, type Ours, polling } from '../contender.ts'
import { ours } from '../ours.ts'
import { newPlace, sharedServer } from './servers.ts'

interface Opened {
  /** A prefix of keys. */
  readonly place: string
  readonly client: Redis
  close(): Promise<void>
}

function open(url: string, { place, onCall }: OpenOptions): Opened {
  const client = new Redis(url, { maxRetriesPerRequest: null })
  const prefix = place ?? newPlace()
  if (onCall) {
    const { sendCommand } = client
    client.sendCommand = (...parameters) => {
      onCall()
      return sendCommand.apply(client, parameters)
    }
  }
  return {
    place: prefix,
    client,
    async close() {
      if (place === undefined) await removeKeys(client, prefix)
      client.disconnect()
    },
  }
}

async function removeKeys(client: Redis, prefix: string): Promise<void> {
  for await (const keys of client.scanStream({ match: `*${prefix}*`, count: 1_000 }))
    if (keys.length > 0) await client.unlink(keys)
}

async function openOurs(url: string, options: OpenOptions): Promise<Ours> {
  const { place, client, close } = open(url, options)
  const listener = options.listen ? client.duplicate() : undefined
  const outbox = new RedisIoredisOutbox<ChainableCommander>(client, {
    prefix: place,
    logger: false,
    ...(listener && { listener }),
  })
  await outbox.initialize()
  return ours<ChainableCommander>(
    {
      place,
      outbox,
      write: (tx) => tx.incr(`${place}:business`),
      async close() {
        listener?.disconnect()
        await close()
      },
    },
    options,
  )
}

// KEYS: due, bodies. ARGV: now, end of the lease. Returns id, body, id, body, …
const LEASE = `
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
local out = {}
for i, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], ARGV[2], id)
  out[#out + 1] = id
  out[#out + 1] = redis.call('HGET', KEYS[2], id)
end
return out`

// KEYS: due, bodies. ARGV: ids. Unlike ours it does not look whether the lease is still its own.
const DONE = `
redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))`

function byHand({ place, client, close }: Opened): Contender {
  const due = `${place}:due`
  const bodies = `${place}:bodies`
  const append = (multi: ChainableCommander, payload: object): ChainableCommander => {
    const id = randomUUID()
    return multi.zadd(due, `${Date.now()}`, id).hset(bodies, id, JSON.stringify(payload))
  }
  return {
    place,
    emit: (payload) => append(client.multi(), payload).exec(),
    emitInTransaction: (payload) => append(client.multi().incr(`${place}:business`), payload).exec(),
    emitMany: (payloads) =>
      payloads.reduce((multi: ChainableCommander, payload) => append(multi, payload), client.multi()).exec(),
    consume: async (handle) =>
      polling(async () => {
        const now = Date.now()
        const rows = (await client.eval(LEASE, 2, due, bodies, `${now}`, `${now + 30_000}`)) as string[]
        for (let index = 1; index < rows.length; index += 2) handle(JSON.parse(rows[index] ?? ''))
        if (rows.length > 0)
          await client.eval(DONE, 2, due, bodies, ...rows.filter((_, index) => index % 2 === 0))
        return rows.length
      }),
    pending: () => client.hlen(bodies),
    store: {
      put: (id, data) => client.setex(`${place}:${id}`, 604_800, Buffer.from(data)),
      get: (id) => client.getBuffer(`${place}:${id}`),
    },
    close,
  }
}

function naively(opened: Opened): Contender {
  const { place, client } = opened
  return {
    ...byHand(opened),
    consume: async (handle) =>
      polling(async () => {
        const [id] = await client.zrange(`${place}:due`, '0', '0')
        if (id === undefined) return 0
        handle(JSON.parse((await client.hget(`${place}:bodies`, id)) ?? ''))
        await client.multi().zrem(`${place}:due`, id).hdel(`${place}:bodies`, id).exec()
        return 1
      }),
  }
}

const JOB: JobsOptions = { removeOnComplete: true }

function bullmq({ place, client, close }: Opened): Contender {
  const queue = new Queue('noop', { connection: client, prefix: place })
  return {
    place,
    emit: (payload) => queue.add('noop', payload, JOB),
    emitMany: (payloads) => queue.addBulk(payloads.map((data) => ({ name: 'noop', data, opts: JOB }))),
    async consume(handle, concurrency) {
      const connection = client.duplicate()
      const worker = new Worker('noop', async ({ data }) => handle(data), {
        connection,
        concurrency,
        prefix: place,
      })
      return async () => {
        await worker.close()
        connection.disconnect()
      }
    },
    pending: () => queue.getJobCountByTypes('wait', 'active', 'delayed', 'failed'),
    async close() {
      await queue.close()
      await close()
    },
  }
}

export async function redis(): Promise<Database | undefined> {
  const url = await sharedServer('redis')
  if (url === undefined) return undefined
  const arm = armsOn((options) => open(url, options))
  const peer = arm('BullMQ', 'peer', bullmq)
  return {
    name: 'redis',
    floor: arm('ioredis and Lua by hand', 'floor', byHand),
    ours: { name: 'ours', role: 'ours', open: (options = {}) => openOurs(url, options) },
    naive: { ...arm('naive: one event a time', 'other', naively), share: 0.1 },
    peers: { emit: [peer], drain: [peer], latency: [peer], sagas: [] },
    sizes: {
      emits: 5_000,
      drain: 40_000,
      sagas: 2_000,
      payloads: 2_000,
      openLoop: [100, 1_000],
      backlogs: [10_000, 100_000, 1_000_000],
      batch: 500,
    },
    drainTarget: 0.5,
    async describe() {
      const client = new Redis(url)
      const version = /redis_version:(\S+)/.exec(await client.info('server'))?.[1] ?? ''
      const [, appendonly = ''] = (await client.config('GET', 'appendonly')) as string[]
      const [, appendfsync = ''] = (await client.config('GET', 'appendfsync')) as string[]
      client.disconnect()
      return { Redis: version, appendonly, appendfsync }
    },
  }
}
