import type { ChainableCommander, Redis } from 'ioredis'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { RedisIoredisOutbox } from '../src/index.ts'
import { event, expireLease, opened, url } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const FAR = 4_000_000_000_000

type Key = (name: string) => string

/** Writes events as the first layout had them, in one call of the server. */
async function older(redis: Redis, key: Key, set: string, ids: readonly string[], at = 1): Promise<void> {
  const state = set === 'due' ? 'waiting' : set
  const write = `
    for n = 4, #ARGV do
      redis.call('HSET', KEYS[1] .. 'event:' .. ARGV[n], 'type', 'type-' .. (n % 3), 'body', '{}', 'headers', '{}', 'fingerprint', '',
        'created', '1', 'attempt', ARGV[2] == 'waiting' and '0' or '1', 'uncounted', '0', 'state', ARGV[2])
      redis.call('ZADD', KEYS[1] .. ARGV[1], ARGV[3], ARGV[n])
    end`
  await redis.eval(write, 1, key(''), set, state, at, ...ids)
}

function ids(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, n) => `${prefix}-${n}`)
}

/** A place as the first version left it. */
async function placeOfOlder() {
  const place = await opened()
  await place.redis.set(place.key('version'), '1')
  return place
}

async function sets(redis: Redis, key: Key): Promise<number[]> {
  return Promise.all(['due', 'leased'].map((set) => redis.zcard(key(set))))
}

describe.skipIf(url === undefined)('The layout', () => {
  test('of a newer version is refused, and nothing changed', async () => {
    const { redis, prefix, outbox, key } = await opened()
    expect(await redis.get(key('version'))).toBe('2')
    await redis.set(key('version'), '3')
    const newer = {
      code: 'OUTBOX_NEWER_SCHEMA',
      stored: 3,
      known: 2,
      message: expect.stringContaining(prefix),
    }
    await expect(outbox.initialize()).rejects.toMatchObject(newer)
    await redis.set(key('version'), 'none')
    await expect(outbox.initialize()).rejects.toMatchObject({ code: 'OUTBOX_NEWER_SCHEMA' })
    await redis.del(key('version'))
    await redis.rpush(key('version'), 'x')
    await expect(outbox.initialize()).rejects.toThrow(`key "${key('version')}" holds a list`)
  })

  test('of the version before is taken over, some hundreds of events at a time', async () => {
    const { redis, outbox, storage, key } = await placeOfOlder()
    await older(redis, key, 'due', ids('due', 1_700))
    await older(redis, key, 'due', ids('later', 3), FAR)
    await older(redis, key, 'leased', ids('expired', 700))
    await older(redis, key, 'dead', ['dead'])
    await older(redis, key, 'done', ['done'])
    let scripts = 0
    const { evalsha } = redis
    redis.evalsha = function (this: Redis, ...call: never) {
      scripts++
      return evalsha.apply(this, call)
    } as never
    await outbox.initialize()
    // It looks at the server once, then takes five hundred of each set.
    expect(scripts).toBe(1 + 4)
    expect(await sets(redis, key)).toEqual([0, 0])
    expect(await redis.get(key('version'))).toBe('2')
    expect(await storage.stats()).toMatchObject({ due: 2_400, leased: 0, dead: 1, blocked: 0 })
    expect((await storage.waiting()).map(({ address }) => address)).toEqual(['type-0', 'type-1', 'type-2'])
    const taken = await takeDue(storage, 5_000, 60_000)
    expect(taken).toHaveLength(2_400)
    expect(taken.filter(({ attempt }) => attempt === 2)).toHaveLength(700)
    expect(taken.every(({ type, address, key }) => address === type && key === null)).toBe(true)
    expect(await outbox.deadLetters.retry('dead')).toBe(1)
    expect(await takeDue(storage, 9, 60_000)).toMatchObject([{ id: 'dead', attempt: 2 }])
    expect((await storage.purge(9)).events).toBe(1)
  })

  test('is noted once all is taken over: a process that is cut short leaves the rest to the next', async () => {
    const { redis, prefix, storage, key } = await placeOfOlder()
    await older(redis, key, 'due', ids('due', 600))
    const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix, logger: false })
    const { evalsha } = redis
    let left = 2
    redis.evalsha = function (this: Redis, ...call: never) {
      return left-- > 0 ? evalsha.apply(this, call) : Promise.reject(new Error('Connection is closed.'))
    } as never
    await expect(outbox.initialize()).rejects.toThrow(/closed/)
    redis.evalsha = evalsha
    expect(await sets(redis, key)).toEqual([100, 0])
    expect(await redis.get(key('version'))).toBe('1')
    await Promise.all([outbox.initialize(), outbox.initialize()])
    expect(await storage.stats()).toMatchObject({ due: 600 })
  })

  test('what processes of the version before write while they run is found by a purge', async () => {
    const { redis, storage, key } = await opened()
    await older(redis, key, 'due', ids('due', 600))
    await older(redis, key, 'leased', ['held'], FAR)
    await older(redis, key, 'leased', ['expired'])
    expect(await storage.purge(1)).toEqual({ events: 0, payloads: 0, more: true })
    expect(await storage.purge(1)).toEqual({ events: 0, payloads: 0 })
    // What such a process holds is its own until the lease runs out.
    expect(await sets(redis, key)).toEqual([0, 1])
    expect(await takeDue(storage, 1_000, 60_000)).toHaveLength(601)
    await redis.zadd(key('leased'), '1', 'held')
    await storage.purge(1)
    expect(await takeDue(storage, 9, 60_000)).toMatchObject([{ id: 'held', attempt: 2 }])
  })

  test('what was taken over meanwhile is left to who has it', async () => {
    const { redis, storage, key } = await opened()
    await older(redis, key, 'leased', ['x'])
    await storage.purge(1)
    const [taken] = await takeDue(storage, 1, 60_000)
    expect(taken).toMatchObject({ id: 'x', attempt: 2 })
    // The older process extends what it no longer has, or has not cleared away what is done.
    await redis.zadd(key('leased'), '1', 'x', '1', 'gone')
    await redis.zadd(key('due'), '1', 'gone')
    await storage.purge(1)
    expect(await sets(redis, key)).toEqual([0, 0])
    expect(await storage.stats()).toMatchObject({ due: 0, leased: 1 })
    const settle = { kind: 'complete', id: 'x', attempt: 2, keepMs: 0 } as const
    expect(await storage.write([{ ...NOTHING, settle }])).toEqual([{ status: 'applied' }])
    expect(await storage.waiting()).toEqual([])
  })

  test('an older process that retries what was taken over decides when it is due', async () => {
    const { redis, storage, key } = await opened()
    await storage.write([{ ...NOTHING, append: [event('x')] }])
    await takeDue(storage, 1, 60_000)
    await expireLease(redis, key, 'x')
    await redis.zrem(key('leased:a'), 'x')
    await redis.hset(key('event:x'), 'state', 'waiting')
    await redis.zadd(key('due'), FAR, 'x')
    await storage.purge(1)
    expect(await storage.stats()).toMatchObject({ due: 0, leased: 0 })
    expect(await redis.zscore(key('due:a'), 'x')).toBe(String(FAR))
  })
})
