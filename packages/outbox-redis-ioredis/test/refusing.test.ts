import { type ChainableCommander, Redis } from 'ioredis'
import type { Outcome } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { closedAfterwards, event, everything, opened, url } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const REFUSED = { code: 'OUTBOX_STORAGE', blame: 'event', transient: false }

// Each would be a number to Lua, to Redis or to both, or becomes one that sorts nowhere.
const NONE = [
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  1e300,
  -1e300,
  'nan',
  'inf',
  '0x10',
  '',
  undefined,
  null,
  10n,
] as unknown as readonly number[]

function put(expires: { at: number } | { inMs: number }) {
  return [{ id: 'claim', data: Uint8Array.of(1), expires }]
}

/** Outcomes with a number where one belongs. */
const OUTCOMES: Record<string, (value: number) => Outcome> = {
  'a retry’s delay': (delayMs) => ({
    ...NOTHING,
    settle: { kind: 'retry', id: 'held', attempt: 1, delayMs, error: null, counted: true },
  }),
  'how long a completed event stays': (keepMs) => ({
    ...NOTHING,
    settle: { kind: 'complete', id: 'held', attempt: 1, keepMs },
    remove: ['old'],
  }),
  'when an event is due': (at) => ({ ...NOTHING, append: [event('new', { due: { at } })] }),
  'in how long an event is due': (inMs) => ({ ...NOTHING, append: [event('new', { due: { inMs } })] }),
  'an event of a chosen id': (inMs) => ({
    ...NOTHING,
    append: [event('new', { due: { inMs }, fingerprint: 'one' })],
  }),
  'when a payload expires': (at) => ({ ...NOTHING, put: put({ at }) }),
  'in how long a payload expires': (inMs) => ({ ...NOTHING, put: put({ inMs }) }),
  'a payload beside an event': (inMs) => ({ ...NOTHING, append: [event('new')], put: put({ inMs }) }),
}

/** A place with an event of each state and a payload. */
async function filled() {
  const place = await opened()
  const { storage } = place
  const ids = ['held', 'done', 'dead']
  await storage.write([
    {
      ...NOTHING,
      append: ids.map((id) => event(id)),
      put: [{ id: 'old', data: Uint8Array.of(1), expires: { inMs: 60_000 } }],
    },
  ])
  await takeDue(storage, 3, 60_000)
  await storage.write([
    { ...NOTHING, settle: { kind: 'complete', id: 'done', attempt: 1, keepMs: 60_000 } },
    { ...NOTHING, settle: { kind: 'bury', id: 'dead', attempt: 1, error: 'x' } },
    { ...NOTHING, append: [event('due')] },
  ])
  return { ...place, before: await everything(place.redis, place.prefix) }
}

describe.skipIf(url === undefined)('What is no number', () => {
  test.each(Object.entries(OUTCOMES))('%s: is refused before anything is written', async (_name, outcome) => {
    const { prefix, redis, storage, before } = await filled()
    for (const value of NONE) {
      await expect(storage.write([outcome(value)])).rejects.toMatchObject(REFUSED)
      // Others of the same write don't go ahead.
      const other = { ...NOTHING, append: [event('other')] }
      await expect(storage.write([other, outcome(value)])).rejects.toMatchObject(REFUSED)
    }
    expect(await everything(redis, prefix)).toEqual(before)
  })

  test.each(Object.entries(OUTCOMES))(
    '%s: is refused at the call inside a MULTI, which goes on without it',
    async (_name, outcome) => {
      const { redis, outbox, storage, key } = await filled()
      await outbox.transaction(async (multi) => {
        multi.set(key('row'), '1')
        const { length } = multi
        for (const value of NONE) {
          await expect(storage.write([outcome(value)], multi)).rejects.toMatchObject(REFUSED)
        }
        expect(multi).toHaveLength(length)
        // What was refused counts for nothing later on.
        expect(await storage.write([outcome(1)], multi)).toEqual([{ status: 'applied' }])
      })
      expect(await redis.get(key('row'))).toBe('1')
    },
  )

  test('leases, what extends and keeps, purges and lists: all of them refuse it', async () => {
    const { prefix, redis, storage, before } = await filled()
    for (const value of NONE) {
      const calls = [
        () => takeDue(storage, value, 1_000),
        () => takeDue(storage, 1, value),
        () => storage.extend([{ id: 'held', attempt: 1 }], value),
        () => storage.keep('done', value),
        () => storage.purge(value),
        () => storage.listDead({ limit: value }),
        () => storage.listDead({ limit: 1, after: [value, ''] }),
      ]
      for (const call of calls) await expect(call()).rejects.toMatchObject(REFUSED)
    }
    expect(await everything(redis, prefix)).toEqual(before)
  })

  test('an expiry long ago is one, however it is written', async () => {
    const { redis, storage, key } = await filled()
    const long = -8e15
    for (const expires of [{ at: long }, { inMs: long }]) {
      await storage.write([{ ...NOTHING, put: put(expires) }])
      await storage.write([{ ...NOTHING, append: [event('new')], put: put(expires) }])
    }
    await redis.set(key('row'), '1')
    expect(await redis.ttl(key('saga:claim'))).not.toBe(-1)
  })
})

describe.skipIf(url === undefined)('What is too long', () => {
  test('for one string of ioredis is refused at the call, and the connection stays in step', async () => {
    const { redis, outbox, storage, key } = await opened()
    const body = 'x'.repeat(110_000_000)
    const append = Array.from({ length: 5 }, (_, n) => event(`${n}`, { body }))
    const large = { code: 'OUTBOX_TRANSACTION_TOO_LARGE', blame: 'event' }
    await expect(storage.write([{ ...NOTHING, append }])).rejects.toMatchObject(large)
    await outbox.transaction(async (multi) => {
      multi.set(key('row'), '1')
      await expect(storage.write([{ ...NOTHING, append }], multi)).rejects.toMatchObject(large)
    })
    expect(await redis.get(key('row'))).toBe('1')
  })
})

describe.skipIf(url === undefined)('What is wrong with an event’s own keys', () => {
  test('a key that is taken is the event’s own fault, one of the sets is not', async () => {
    const { redis, outbox, storage, key } = await opened()
    await redis.set(key('event:new'), 'something else')
    for (const fingerprint of [null, 'one']) {
      const outcome = { ...NOTHING, append: [event('new', { fingerprint })] }
      await expect(storage.write([outcome])).rejects.toMatchObject(REFUSED)
    }
    const named = { ...NOTHING, append: [event('new', { fingerprint: 'one' })] }
    const failing = outbox.transaction((multi) => storage.write([named], multi))
    await expect(failing).rejects.toMatchObject(REFUSED)
    await redis.set(key('due:a'), 'something else')
    const other = { ...NOTHING, append: [event('other')] }
    await expect(storage.write([other])).rejects.toMatchObject({ blame: 'environment', transient: false })
  })

  test('fields that somebody has spoilt cost no event its place', async () => {
    const { redis, storage, key } = await opened()
    const ids = ['a', 'b', 'c']
    await storage.write([{ ...NOTHING, append: ids.map((id) => event(id)) }])
    await redis.hset(key('event:b'), { attempt: 'none', uncounted: 'none' })
    const leased = await takeDue(storage, 3, 60_000)
    expect(leased.map(({ id, attempt }) => [id, attempt])).toEqual(ids.map((id) => [id, 1]))
    const settle = { kind: 'retry', id: 'b', attempt: 1, delayMs: 0, error: 'x', counted: false } as const
    await expect(storage.write([{ ...NOTHING, settle }])).rejects.toMatchObject(REFUSED)
    expect(await redis.zrange(key('leased:a'), '0', '-1')).toEqual(ids)
    expect(await redis.hmget(key('event:b'), 'state', 'error')).toEqual(['leased', null])
    const bury = { kind: 'bury', id: 'b', attempt: 1, error: 'x' } as const
    expect(await storage.write([{ ...NOTHING, settle: bury }])).toEqual([{ status: 'applied' }])
  })

  test('a command of the user’s own whose value Redis refuses, alone in its MULTI, is refused', async () => {
    const { outbox, key } = await opened(closedAfterwards(new Redis(url ?? '')))
    const failing = outbox.transaction(
      async (multi: ChainableCommander) => void multi.zadd(key('set'), 'nan', 'x'),
    )
    await expect(failing).rejects.toMatchObject(REFUSED)
  })
})
