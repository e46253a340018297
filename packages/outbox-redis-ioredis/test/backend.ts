import { randomUUID } from 'node:crypto'
import { type ChainableCommander, Redis } from 'ioredis'
import type { Backend, RawEvent } from 'outbox-core/testing'
import { RedisIoredisOutbox } from '../src/index.ts'

/** A Redis backend: a prefix of its own for every place. */
export function redisBackend(url: string): Backend<ChainableCommander> {
  return {
    name: 'ioredis',
    traits: { collectsWrites: true },
    async open(options = {}) {
      const prefix = `place_${randomUUID().replaceAll('-', '').slice(0, 16)}`
      const clients: Redis[] = []
      let commands = 0
      const connect = (connectionName = prefix): Redis => {
        const client = new Redis(url, { connectionName })
        const { sendCommand } = client
        client.sendCommand = function (...args) {
          if (args[0].name !== 'info' && args[0].name !== 'client') commands++
          return sendCommand.apply(this, args)
        }
        clients.push(client)
        return client
      }
      const redis = connect()
      const raw = connect('raw')
      const key = (name: string): string => `{${prefix}}:${name}`
      const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { ...options, prefix })
      await outbox.initialize()
      return {
        outbox,
        sibling: async (more) =>
          new RedisIoredisOutbox<ChainableCommander>(connect(), { ...options, ...more, prefix }),
        writeBusinessRow: (tx, row) => void tx.rpush(key('business'), row),
        businessRows: () => raw.lrange(key('business'), 0, -1),
        async ownTransaction(work) {
          const multi = redis.multi()
          await work(multi)
          for (const [error] of (await multi.exec()) ?? []) if (error) throw error
        },
        async events() {
          const found: (RawEvent & { created: number })[] = []
          for (const name of await raw.keys(key('event:*'))) {
            const { type = '', body = '', headers = '{}', state, attempt, created } = await raw.hgetall(name)
            found.push({
              id: name.slice(key('event:').length),
              type,
              body,
              headers: JSON.parse(headers),
              state: state as RawEvent['state'],
              attempt: Number(attempt),
              created: Number(created),
            })
          }
          return found
            .toSorted((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1))
            .map(({ created, ...event }) => event)
        },
        async payloads() {
          const names = await raw.keys(key('saga:*'))
          const found = await Promise.all(
            names.map(async (name) => ({
              id: name.slice(key('saga:').length),
              data: await raw.getBuffer(name),
              expiresAt: Date.now() + (await raw.pttl(name)),
            })),
          )
          return found.flatMap(({ data, ...rest }) => (data ? [{ ...rest, data: new Uint8Array(data) }] : []))
        },
        overwritePayload: async (id, data) =>
          void (await raw.set(key(`saga:${id}`), Buffer.from(data), 'KEEPTTL')),
        expirePayload: async (id) => void (await raw.pexpireat(key(`saga:${id}`), '1')),
        async expireLeases() {
          for (const id of await raw.zrange(key('leased'), '0', '-1')) await raw.zadd(key('leased'), '1', id)
        },
        roundTrips: () => commands,
        async connections() {
          const list = (await raw.client('LIST')) as string
          return list.split('\n').filter((line) => line.includes(`name=${prefix}`)).length
        },
        async destroy() {
          await outbox.close()
          const names = await raw.keys(key('*'))
          if (names.length > 0) await raw.del(...names)
          for (const client of clients) client.disconnect()
        },
      }
    },
  }
}
