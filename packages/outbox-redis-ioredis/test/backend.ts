import { randomUUID } from 'node:crypto'
import { type ChainableCommander, Cluster, type Redis } from 'ioredis'
import type { Backend, RawEvent } from 'outbox-core/testing'
import { RedisIoredisOutbox } from '../src/index.ts'

/** Opens a client of the kind under test. */
export type Connect = (options: { readonly connectionName: string }) => Redis | Cluster

interface Kind {
  readonly name: string
  /** The clients of outboxes. */
  readonly connect: Connect
  /** The client that looks behind their back. @default `connect` */
  readonly connectRaw?: Connect
  /** What the clients of outboxes put before every key. */
  readonly keyPrefix?: string
}

/** Every event, as all of them are at one moment. */
const EVENTS = `
local found = {}
for _, name in ipairs(redis.call('KEYS', KEYS[1] .. 'event:*')) do
  found[#found + 1] = { name, unpack(redis.call('HMGET', name, 'type', 'body', 'headers', 'state', 'attempt', 'created')) }
end
return found`

/** A Redis backend: a prefix of its own for every place. */
export function redisBackend({
  name,
  connect: open,
  connectRaw = open,
  keyPrefix = '',
}: Kind): Backend<ChainableCommander> {
  return {
    name,
    traits: { collectsWrites: true },
    async open(options = {}) {
      const prefix = `place_${randomUUID().replaceAll('-', '').slice(0, 16)}`
      const clients: (Redis | Cluster)[] = []
      let commands = 0
      const connect = (): Redis => {
        const client = open({ connectionName: prefix }) as Redis
        const { sendCommand } = client
        client.sendCommand = function (...args) {
          if (args[0].name !== 'info' && args[0].name !== 'client') commands++
          return sendCommand.apply(this, args)
        }
        clients.push(client)
        return client
      }
      const redis = connect()
      const looking = connectRaw({ connectionName: 'raw' })
      clients.push(looking)
      const nodes = looking instanceof Cluster ? () => looking.nodes('master') : () => [looking]
      const raw = looking as Redis
      const own = (name: string): string => `{${prefix}}:${name}`
      const key = (name: string): string => `${keyPrefix}${own(name)}`
      // Through a script, so that a cluster asks the node of the prefix.
      const names = async (pattern: string): Promise<string[]> =>
        (await raw.eval("return redis.call('KEYS', ARGV[1])", 1, key(''), key(pattern))) as string[]
      const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { ...options, prefix })
      await outbox.initialize()
      return {
        outbox,
        sibling: async (more) =>
          new RedisIoredisOutbox<ChainableCommander>(connect(), { ...options, ...more, prefix }),
        writeBusinessRow: (tx, row) => void tx.rpush(own('business'), row),
        businessRows: () => raw.lrange(key('business'), 0, -1),
        async ownTransaction(work) {
          const multi = redis.multi()
          await work(multi)
          for (const [error] of (await multi.exec()) ?? []) if (error) throw error
        },
        async events() {
          const found = (await raw.eval(EVENTS, 1, key(''))) as string[][]
          const events = found.map(([name = '', ...values]) => {
            const [type = '', body = '', headers = '{}', state, attempt, created] = values
            return {
              id: name.slice(key('event:').length),
              type,
              body,
              headers: JSON.parse(headers),
              state: state as RawEvent['state'],
              attempt: Number(attempt),
              created: Number(created),
            }
          })
          return events
            .toSorted((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1))
            .map(({ created, ...event }) => event)
        },
        async payloads() {
          const found = await Promise.all(
            (await names('saga:*')).map(async (name) => ({
              id: name.slice(key('saga:').length),
              data: await raw.getBuffer(name),
              expiresAt: await expiry(raw, name),
            })),
          )
          return found.flatMap(({ data, ...rest }) => (data ? [{ ...rest, data: new Uint8Array(data) }] : []))
        },
        overwritePayload: async (id, data) =>
          void (await raw.set(key(`saga:${id}`), Buffer.from(data), 'KEEPTTL')),
        expirePayload: async (id) => void (await raw.pexpireat(key(`saga:${id}`), '1')),
        async expireLeases() {
          for (const set of await names('leased:*'))
            for (const id of await raw.zrange(set, '0', '-1')) await raw.zadd(set, '1', id)
        },
        roundTrips: () => commands,
        async connections() {
          const lists = await Promise.all(nodes().map((node) => node.client('LIST') as Promise<string>))
          return lists.flatMap((list) => list.split('\n')).filter((line) => line.includes(`name=${prefix}`))
            .length
        },
        async destroy() {
          await outbox.close()
          for (const name of await names('*')) await raw.del(name)
          for (const client of clients) client.disconnect()
        },
      }
    },
  }
}

/** Exactly, where Redis tells (7.0). */
async function expiry(raw: Redis, name: string): Promise<number> {
  try {
    return Number(await raw.call('PEXPIRETIME', name))
  } catch {
    return Date.now() + (await raw.pttl(name))
  }
}
