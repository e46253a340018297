import type { Redis } from 'ioredis'
import type { Settlement } from 'outbox-core'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startOwnServer } from '../../../test/servers/index.ts'
import { connect, opened } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const FAR = 4_000_000_000_000

function event(id: string) {
  return { id, type: 'a', body: '{}', headers: {}, due: { inMs: 0 }, fingerprint: null }
}

/** Makes each of the sets as large as so many events of its state would, none of them due, in one call of the server. */
async function crowd(redis: Redis, root: string, count: number): Promise<void> {
  const fill = `
    for set, at in pairs({ due = ${FAR}, leased = ${FAR}, done = ${FAR}, dead = 1 }) do
      for n = 1, tonumber(ARGV[1]) do redis.call('ZADD', KEYS[1] .. set, at + n, set .. n) end
    end`
  await redis.eval(fill, 1, root, count)
}

/** What each call makes the server do, as the commands that scripts call. */
async function commandsOf(redis: Redis, calls: Record<string, () => Promise<unknown>>) {
  const costs: Record<string, Record<string, number>> = {}
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

// Each looks at as much as it is given or asked for, whatever lies beside it: found by key, or by score in a sorted set.
const FOUND_DIRECTLY =
  /^(evalsha|time|type|zadd|zrem|zrangebyscore|zcount|zcard|zscore|hset|hget|hmget|hexists|del|set|get)$/

describe('What a call costs', () => {
  test('is the same with hundreds of thousands of events in every other state', async ({ skip }) => {
    // Whose statistics count nobody else's commands.
    const server = (await startOwnServer('redis')) ?? skip()
    onTestFinished(() => server.kill())
    const { redis, storage, key } = await opened(connect(server.url))
    await redis.config('SET', 'appendonly', 'no')
    const settles = (settle: Settlement) => () => storage.write([{ ...NOTHING, settle }])
    const measured = async () => {
      await storage.write([{ ...NOTHING, append: ['a', 'b', 'c', 'd', 'e'].map(event) }])
      const attempt = 1
      return commandsOf(redis, {
        append: () => storage.write([{ ...NOTHING, append: [event('f')] }]),
        lease: () => storage.lease(6, 60_000),
        extend: () => storage.extend([{ id: 'a', attempt }], 60_000),
        complete: settles({ kind: 'complete', id: 'a', attempt, keepMs: 0 }),
        finish: settles({ kind: 'complete', id: 'b', attempt, keepMs: 1 }),
        keep: () => storage.keep('b', -1),
        purge: () => storage.purge(10),
        retry: settles({ kind: 'retry', id: 'c', attempt, delayMs: 90_000, error: null, counted: true }),
        bury: settles({ kind: 'bury', id: 'd', attempt, error: 'x' }),
        'dead letters by id': () => storage.listDead({ limit: 1, ids: ['d'] }),
        revive: settles({ kind: 'revive', id: 'd', attempt }),
        stats: () => storage.stats(),
        'an idle poll': async () => {
          await redis.zrem(key('due'), 'd')
          await storage.lease(6, 60_000)
        },
      })
    }
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
})
