import { randomUUID } from 'node:crypto'
import { type ChainableCommander, Redis, type RedisOptions } from 'ioredis'
import { type LeasedEvent, type NewEvent, OutboxEventBus, type Storage } from 'outbox-core'
import { afterEach } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { RedisIoredisOutbox, type RedisIoredisOutboxOptions } from '../src/index.ts'

/** The server of this project's tests. */
export const url: string | undefined = serverUrl()

const clients: { disconnect(): void }[] = []
afterEach(() => {
  for (const client of clients.splice(0)) client.disconnect()
})

/** A client that is closed after the test. */
export function connect(to = url ?? '', options: Omit<RedisOptions, 'replyMapping'> = {}): Redis {
  return closedAfterwards(new Redis(to, options))
}

export function closedAfterwards<Client extends Pick<Redis, 'disconnect' | 'on'>>(client: Client): Client {
  client.on('error', () => {})
  clients.push(client)
  return client
}

/** An event of type a, due at once. */
export function event(id: string, changes: Partial<NewEvent> = {}): NewEvent {
  return {
    ...{ id, type: 'a', address: 'a', key: null, body: '{}', headers: {} },
    ...{ due: { inMs: 0 }, fingerprint: null },
    ...changes,
  }
}

/** Leases events of type a: one call, and no look at what there is. */
export function leaseOf(
  storage: Pick<Storage<never>, 'lease'>,
  limit: number,
  leaseMs = 60_000,
): Promise<readonly LeasedEvent[]> {
  return storage.lease({ limit, leaseMs, addresses: [{ address: 'a', limit }] })
}

/** Makes the lease of an event run out, behind the outbox's back. */
export async function expireLease(
  raw: Redis,
  key: (name: string) => string,
  id: string,
  at = 1,
): Promise<void> {
  const [type, address] = await raw.hmget(key(`event:${id}`), 'type', 'address')
  await raw.zadd(key(`leased:${address || type}`), 'XX', `${at}`, id)
}

/** An initialized outbox with a prefix of its own. */
export async function opened(redis: Redis = connect(), options: RedisIoredisOutboxOptions = {}) {
  const prefix = `t${randomUUID().replaceAll('-', '')}`
  const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix, logger: false, ...options })
  await outbox.initialize()
  return {
    prefix,
    redis,
    outbox,
    storage: outbox.storage,
    bus: new OutboxEventBus(outbox),
    key: (name: string) => `{${prefix}}:${name}`,
  }
}

/** Everything under a prefix, as the server itself dumps it, but for what scripts note for themselves. */
export async function everything(redis: Redis, prefix: string): Promise<Record<string, string>> {
  const names = (await redis.keys(`{${prefix}}:*`)).filter((name) => !isNote(name)).sort()
  const dumps = await Promise.all(names.map((name) => redis.dumpBuffer(name)))
  return Object.fromEntries(names.map((name, index) => [name, dumps[index]?.toString('base64') ?? '']))
}

/** Of the layout's version, and of what a worker has leased last. */
export function isNote(name: string): boolean {
  return /\}:(version$|lease:)/.test(name)
}
