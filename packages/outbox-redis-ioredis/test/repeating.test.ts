import { type ChainableCommander, Redis, type RedisOptions } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import type { Outcome } from 'outbox-core'
import { afterEach, describe, expect, test } from 'vitest'
import { FaultyNetwork } from '../../../test/faults/proxy.ts'
import { RedisIoredisOutbox } from '../src/index.ts'
import { closedAfterwards, connect, event, everything, expireLease, leaseOf, opened, url } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const networks: FaultyNetwork[] = []
afterEach(async () => {
  for (const network of networks.splice(0)) await network.close()
})

/** An outbox whose next answer to a command that matches is lost, after Redis has carried it out. */
async function unreliable(Client: typeof Redis = Redis, options = {}) {
  const network = await FaultyNetwork.start(url ?? '')
  networks.push(network)
  const place = await opened()
  const client = closedAfterwards(new Client(network.url, options))
  const { prefix } = place
  const { storage } = new RedisIoredisOutbox<ChainableCommander>(client, { prefix, logger: false })
  // Known to the server by now: what is cut off is the one call.
  await leaseOf(storage, 1)
  await storage.extend([], 1)
  await storage.keep('x', 1)
  await storage.purge(1)
  return { ...place, unreliable: storage, network }
}

const CLIENTS = [
  ['ioredis 6', Redis, {}],
  ['ioredis 5', Redis5 as unknown as typeof Redis, {}],
  ['ioredis 6, auto-pipelined', Redis, { enableAutoPipelining: true }],
  ['ioredis 6, RESP2 and impatient', Redis, { protocol: 2, commandTimeout: 5_000, maxRetriesPerRequest: 3 }],
] as const

describe.skipIf(url === undefined)('What ioredis sends again because its answer was lost', () => {
  test.each(CLIENTS)('%s: a lease hands out the same events, and no others', async (_n, Client, options) => {
    const { storage, unreliable: worker, network, redis, key } = await unreliable(Client, options)
    const ids = ['a', 'b', 'c', 'd', 'e']
    for (const id of ids) await storage.write([{ ...NOTHING, append: [event(id)] }])
    const cut = network.cutAnswer(/evalsha/i)
    const first = await leaseOf(worker, 2)
    await cut
    expect(first.map(({ id, attempt, body }) => [id, attempt, body])).toEqual([
      ['a', 1, '{}'],
      ['b', 1, '{}'],
    ])
    expect(await redis.zrange(key('leased:a'), '0', '-1')).toEqual(['a', 'b'])
    expect((await leaseOf(worker, 2)).map(({ id }) => id)).toEqual(['c', 'd'])
    expect((await leaseOf(storage, 9)).map(({ id }) => id)).toEqual(['e'])
  })

  test('a lease that came after another one of the same worker takes nothing any more', async () => {
    const { redis, storage, key } = await opened()
    for (const id of ['a', 'b', 'c']) await storage.write([{ ...NOTHING, append: [event(id)] }])
    const sent: unknown[][] = []
    const { evalsha } = redis
    redis.evalsha = function (this: Redis, ...call: never) {
      sent.push(call)
      return evalsha.apply(this, call)
    } as never
    await leaseOf(storage, 1)
    await leaseOf(storage, 1)
    redis.evalsha = evalsha
    const again = (await evalsha.apply(redis, sent[0] as never)) as unknown[]
    expect(again).toHaveLength(1)
    expect(await redis.zrange(key('leased:a'), '0', '-1')).toEqual(['a', 'b'])
  })

  test.each(CLIENTS)('%s: what extends, keeps and purges, and a payload', async (_n, Client, options) => {
    const { storage, unreliable: worker, network, redis, key } = await unreliable(Client, options)
    const append = ['a', 'b', 'c'].map((id) => event(id))
    await storage.write([{ ...NOTHING, append }])
    await leaseOf(storage, 3)
    const complete = (id: string, keepMs: number): Outcome => ({
      ...NOTHING,
      settle: { kind: 'complete', id, attempt: 1, keepMs },
    })
    await storage.write([complete('b', 60_000), complete('c', -1)])
    const cutting = async <R>(command: RegExp, call: () => Promise<R>): Promise<R> => {
      const cut = network.cutAnswer(command)
      const result = await call()
      await cut
      return result
    }
    expect(await cutting(/evalsha/i, () => worker.extend([{ id: 'a', attempt: 1 }], 90_000))).toEqual([])
    await cutting(/evalsha/i, () => worker.keep('b', 90_000))
    await cutting(/evalsha/i, () => worker.purge(9))
    const put = [{ id: 'p', data: Uint8Array.of(7), expires: { inMs: 60_000 } }]
    await cutting(/\bset\b/i, () => worker.write([{ ...NOTHING, put }]))
    expect(await cutting(/\bget\b/i, () => worker.getPayload('p'))).toEqual(Buffer.of(7))
    expect(await redis.exists(key('event:a'), key('event:b'), key('event:c'))).toBe(2)
    expect(await redis.zcard(key('leased:a'))).toBe(1)
  })

  test.each(CLIENTS)('%s: a write is not, and says that nobody knows', async (_n, Client, options) => {
    const { storage, unreliable: worker, network, redis, prefix } = await unreliable(Client, options)
    await worker.write([{ ...NOTHING, append: [event('known')] }])
    await storage.write([
      {
        ...NOTHING,
        settle: {
          kind: 'complete',
          id: 'known',
          attempt: (await leaseOf(storage, 1))[0]?.attempt ?? 0,
          keepMs: 0,
        },
      },
    ])
    const outcome: Outcome = { ...NOTHING, append: [event('new')] }
    const cut = network.cutAnswer(/evalsha/i)
    await expect(worker.write([outcome])).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
    await cut
    const before = await everything(redis, prefix)
    // By hand it may be repeated.
    expect(await worker.write([outcome])).toEqual([{ status: 'applied' }])
    expect(await everything(redis, prefix)).toEqual(before)
    expect(await storage.stats()).toMatchObject({ due: 1 })
  })
})

describe.skipIf(url === undefined)('Leasing', () => {
  test('is oldest first, those whose lease has run out among them', async () => {
    const { redis, storage, key } = await opened()
    await storage.write([{ ...NOTHING, append: ['a', 'b', 'c', 'd', 'e'].map((id) => event(id)) }])
    expect(await leaseOf(storage, 5)).toHaveLength(5)
    for (const [id, at] of Object.entries({ a: 500, b: 100, c: 300 })) await expireLease(redis, key, id, at)
    for (const [id, at] of Object.entries({ x: 200, y: 400, z: 600 }))
      await storage.write([{ ...NOTHING, append: [event(id, { due: { at } })] }])
    expect((await leaseOf(storage, 4)).map(({ id }) => id)).toEqual(['b', 'x', 'c', 'y'])
    expect((await leaseOf(storage, 9)).map(({ id }) => id)).toEqual(['a', 'z'])
  })
})

describe('Clients that can’t do it', () => {
  const lazy = { lazyConnect: true }
  test.each([
    ['readOnly', { ...lazy, readOnly: true }],
    ['role', { ...lazy, role: 'slave', sentinels: [{ host: '127.0.0.1', port: 1 }], name: 'mine' }],
  ] as [string, RedisOptions][])(
    '%s: a client of a replica is refused, with what to do',
    (option, options) => {
      const client = closedAfterwards(new Redis(options as Parameters<typeof connect>[1] & object))
      expect(() => new RedisIoredisOutbox(client)).toThrow(
        expect.objectContaining({ code: 'OUTBOX_CONFIGURATION', option }),
      )
      expect(() => new RedisIoredisOutbox(client)).toThrow(/needs the master/)
    },
  )

  test('the outbox’s own client as the listener is refused, with what to do', () => {
    const client = connect('redis://127.0.0.1:1', lazy)
    expect(() => new RedisIoredisOutbox(client, { listener: client })).toThrow(
      /listener.*redis\.duplicate\(\)/,
    )
  })
})
