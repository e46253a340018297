import type { Redis } from 'ioredis'
import type { Outcome, Settlement } from 'outbox-core'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startOwnServer } from '../../../test/servers/index.ts'
import { connect, event, leaseOf, opened } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const FAR = 4_000_000_000_000

/** Another address: of events that are due, none of which is ever asked for. */
const OTHER = 'b'

/**
 * Makes each of the sets as large as so many events of its state would, none of them to be taken at address a, in one call of
 * the server.
 */
async function crowd(redis: Redis, root: string, count: number): Promise<void> {
  const fill = `
    local sets = { ['due:a'] = ${FAR}, ['leased:a'] = ${FAR}, ['due:${OTHER}'] = 1, ['leased:${OTHER}'] = 1, blocked = 1, done = ${FAR}, dead = 1, ['key:k'] = 9 }
    for set, at in pairs(sets) do
      for n = 1, tonumber(ARGV[1]) do redis.call('ZADD', KEYS[1] .. set, at + n, set .. n) end
    end
    redis.call('ZADD', KEYS[1] .. 'addresses', 0, 'a', 0, '${OTHER}')`
  await redis.eval(fill, 1, root, count)
}

type Commands = Record<string, number>

/** What each call makes the server do, as the commands that scripts call. */
async function commandsOf(redis: Redis, calls: Record<string, () => Promise<unknown>>) {
  const costs: Record<string, Commands> = {}
  for (const [name, call] of Object.entries(calls)) {
    await redis.config('RESETSTAT')
    await call()
    const stats = await redis.info('commandstats')
    costs[name] = Object.fromEntries(
      [...stats.matchAll(/^cmdstat_([a-z|]+):calls=(\d+)/gm)]
        .map(([, command = '', times]) => [command, Number(times)] as const)
        // A script's text is sent once.
        .filter(([command]) => !/^(config|info|client|ping|eval$)/.test(command)),
    )
  }
  return costs
}

/** What one costs more than another. */
function more(one: Commands = {}, other: Commands = {}): Commands {
  const commands = [...new Set([...Object.keys(one), ...Object.keys(other)])]
  const difference = (command: string): number => (one[command] ?? 0) - (other[command] ?? 0)
  return Object.fromEntries(
    commands.filter((command) => difference(command) !== 0).map((command) => [command, difference(command)]),
  )
}

// Each looks at as much as it is given or asked for, whatever lies beside it: found by key, or by score or place in a
// sorted set.
const FOUND_DIRECTLY =
  /^(evalsha|time|type|zadd|zrem|zrange|zrangebyscore|zcount|zcard|zscore|hset|hget|hmget|hexists|del|set|get)$/

async function ownServer(skip: () => never) {
  // Whose statistics count nobody else's commands.
  const server = (await startOwnServer('redis')) ?? skip()
  onTestFinished(() => server.kill())
  const place = await opened(connect(server.url))
  await place.redis.config('SET', 'appendonly', 'no')
  const { storage } = place
  const settles = (settle: Settlement, rest: Partial<Outcome> = {}) => {
    return () => storage.write([{ ...NOTHING, settle, ...rest }])
  }
  return {
    ...place,
    settles,
    appends: (...append: Outcome['append']) => storage.write([{ ...NOTHING, append }]),
  }
}

const attempt = 1
function completes(id: string): Settlement {
  return { kind: 'complete', id, attempt, keepMs: 0 }
}

describe('What a call costs', () => {
  test('is the same with hundreds of thousands of events in every other state, and of another address', async ({
    skip,
  }) => {
    const { redis, storage, key, settles, appends } = await ownServer(skip)
    const measured = async () => {
      await appends(...['a', 'b', 'c', 'd', 'e'].map((id) => event(id)), event('first', { key: 'first' }))
      return commandsOf(redis, {
        append: () => appends(event('f')),
        'append to a key': () => appends(event('next', { key: 'k' })),
        lease: () => leaseOf(storage, 7),
        extend: () => storage.extend([{ id: 'a', attempt }], 60_000),
        complete: settles(completes('a')),
        'complete one of a key': settles(completes('first')),
        finish: settles({ kind: 'complete', id: 'b', attempt, keepMs: 1 }),
        keep: () => storage.keep('b', -1),
        purge: () => storage.purge(10),
        retry: settles({ kind: 'retry', id: 'c', attempt, delayMs: 90_000, error: null, counted: true }),
        bury: settles({ kind: 'bury', id: 'd', attempt, error: 'x' }),
        'dead letters by id': () => storage.listDead({ limit: 1, ids: ['d'] }),
        revive: settles({ kind: 'revive', id: 'd', attempt }),
        stats: () => storage.stats(),
        waiting: () => storage.waiting(),
        'an idle poll': async () => {
          await redis.zrem(key('due:a'), 'd')
          await leaseOf(storage, 6)
        },
      })
    }
    await crowd(redis, key(''), 1)
    const alone = await measured()
    await redis.flushall()
    await crowd(redis, key(''), 200_000)
    expect(await measured()).toEqual(alone)
    for (const [name, commands] of Object.entries(alone))
      expect(
        Object.keys(commands).filter((command) => !FOUND_DIRECTLY.test(command)),
        name,
      ).toEqual([])
  })

  test('a key costs what the README says', async ({ skip }) => {
    const { redis, storage, settles, appends } = await ownServer(skip)
    await appends(event('other', { due: { at: FAR } }))
    const keyed = (id: string) => event(id, { key: 'k' })
    const costs = await commandsOf(redis, {
      one: () => appends(event('a')),
      'the first of its key': () => appends(keyed('first')),
      'one behind it': () => appends(keyed('second')),
      'one of another key': () => appends(event('alone', { key: 'another' })),
      two: () => appends(event('b'), event('c')),
      'two of a key': () => appends(keyed('third'), keyed('fourth')),
      'a lease of five': () => leaseOf(storage, 9),
      'completing one': settles(completes('a')),
      'completing one that others wait for': settles(completes('first')),
      'a lease of one': () => leaseOf(storage, 9),
      'completing the last of its key': settles(completes('alone')),
      'a step': settles(completes('b'), { append: [event('step')] }),
      'a step in a key': settles(completes('second'), { append: [{ ...keyed('in-place'), inPlace: true }] }),
    })
    expect(more(costs['the first of its key'], costs['one'])).toEqual({ zadd: 1, zrange: 1, zcard: 1 })
    expect(more(costs['one behind it'], costs['one'])).toEqual({ zadd: 1, zrange: 1, zcard: 1 })
    expect(more(costs['two of a key'], costs['two'])).toEqual({ zadd: 2, zrange: 1, zcard: 1 })
    expect(costs['a lease of five']).toMatchObject({ zrangebyscore: 2, hmget: 5, hset: 5, zadd: 1, zrem: 2 })
    expect(costs['a lease of one']).toMatchObject({ zrangebyscore: 2, hmget: 1, hset: 1, zadd: 1, zrem: 2 })
    expect(more(costs['completing the last of its key'], costs['completing one'])).toEqual({
      zrange: 1,
      zrem: 1,
    })
    expect(more(costs['completing one that others wait for'], costs['completing one'])).toEqual({
      ...{ zrange: 1, hmget: 1, zscore: 1, zcard: 2 },
      ...{ zrem: 2, zadd: 1, hset: 1 },
    })
    expect(more(costs['a step in a key'], costs['a step'])).toEqual({ zrange: 1, zrem: 1, zadd: 1 })
  })

  test('what waits behind an event is read once for the lease, and once for completing it', async ({
    skip,
  }) => {
    const { redis, storage, settles, appends } = await ownServer(skip)
    const ids = Array.from({ length: 21 }, (_, n) => `${n}`)
    const addresses = [{ address: 'a', limit: 5 }]
    const lease = (behind: number) => storage.lease({ limit: 5, leaseMs: 60_000, addresses, behind })
    const measured = async (key: string, behind: number) => {
      await appends(...ids.map((id) => event(`${key} ${id}`, { key })))
      const also = ids.slice(1, behind + 1).map((id) => `${key} ${id}`)
      return commandsOf(redis, {
        lease: () => lease(behind),
        complete: settles({ kind: 'complete', id: `${key} 0`, attempt, keepMs: 0, also }),
      })
    }
    const one = await measured('x', 0)
    await redis.flushall()
    const many = await measured('y', 10)
    expect(more(many['lease'], one['lease'])).toEqual({ zrange: 1, hmget: 10, zscore: 10 })
    expect(more(many['complete'], one['complete'])).toEqual({ hmget: 10 })
  })

  test('a lease looks at the addresses that it is asked for, and at no more of each than its share', async ({
    skip,
  }) => {
    const { redis, storage, appends } = await ownServer(skip)
    const types = Array.from({ length: 100 }, (_, n) => `type-${n}`)
    for (const type of types)
      await appends(
        ...Array.from({ length: 30 }, (_, n) =>
          event(`${type}-${n}`, { type, address: type, due: { at: n + 1 } }),
        ),
      )
    const lease = (limit: number) =>
      storage.lease({ limit, leaseMs: 60_000, addresses: types.map((address) => ({ address, limit: 4 })) })
    const { few, all } = await commandsOf(redis, { few: () => lease(100), all: () => lease(1_000) })
    // Of all hundred the oldest, then four more of each.
    expect(few).toMatchObject({ zrangebyscore: 200, hmget: 100, hset: 100, zadd: 100, zrem: 101 })
    expect(all).toMatchObject({ zrangebyscore: 200, hmget: 400, hset: 400, zadd: 100, zrem: 101 })
    expect((await lease(1_000)).map(({ id }) => Number(id.split('-')[2])).toSorted()).toEqual(
      Array.from({ length: 400 }, (_, n) => 5 + Math.floor(n / 100)),
    )
  })
})
