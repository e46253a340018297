import type { Redis } from 'ioredis'
import type { NewEvent, Outcome, Storage } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { event, everything, leaseOf, opened, url } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }
const APPLIED = [{ status: 'applied' }]

function keyed(id: string, changes = {}) {
  return event(id, { key: 'k', ...changes })
}

function complete(id: string, more: Partial<Outcome> = {}): Outcome {
  return { ...NOTHING, settle: { kind: 'complete', id, attempt: 1, keepMs: 0 }, ...more }
}

async function filled(...ids: string[]) {
  const place = await opened()
  const append = ids.map((id) => keyed(id))
  await place.storage.write([{ ...NOTHING, append }])
  await leaseOf(place.storage, 9)
  return { ...place, places: () => place.redis.zrange(place.key('key:k'), '0', '-1') }
}

/** Leases what is due at address a, and tells of so many behind. */
function runs(storage: Storage<never>, behind: number) {
  return storage.lease({ limit: 9, leaseMs: 60_000, addresses: [{ address: 'a', limit: 9 }], behind })
}

function completing(id: string, also: readonly string[], more: object = {}): Outcome {
  return { ...NOTHING, settle: { kind: 'complete', id, attempt: 1, keepMs: 0, also, ...more } }
}

describe.skipIf(url === undefined)('What waits behind an event in Redis', () => {
  async function waiting(...append: NewEvent[]) {
    const place = await opened()
    await place.storage.write([{ ...NOTHING, append }])
    const [first] = await runs(place.storage as never, 100)
    return { ...place, behind: first?.behind?.map(({ id }) => id) }
  }

  test('is told as far as it is due', async () => {
    const late = keyed('late', { due: { at: 4_000_000_000_000 } })
    expect((await waiting(keyed('1'), keyed('2'), late, keyed('4'))).behind).toEqual(['2'])
  })

  test('is told as far as nothing else has replaced it', async () => {
    const { redis, storage, key } = await opened()
    await storage.write([{ ...NOTHING, append: ['1', '2', '3', '4'].map((id) => keyed(id)) }])
    await redis.del(key('event:3'))
    const [first] = await runs(storage as never, 100)
    expect(first?.behind?.map(({ id }) => id)).toEqual(['2'])
  })

  test('is told in so many events and characters that other clients don’t wait for long', async () => {
    const many = Array.from({ length: 600 }, (_, n) => keyed(`${n}`))
    expect((await waiting(...many)).behind).toHaveLength(100)
    const large = Array.from({ length: 20 }, (_, n) =>
      keyed(`${n}`, { body: JSON.stringify('x'.repeat(99_998)) }),
    )
    expect((await waiting(...large)).behind).toHaveLength(10)
    const { storage } = await opened()
    const keys = ['a', 'b', 'c', 'd', 'e', 'f', 'g']
    const append = keys.flatMap((key) => many.slice(0, 90).map(({ id }) => keyed(`${key} ${id}`, { key })))
    await storage.write([{ ...NOTHING, append }])
    const told = (await runs(storage as never, 100)).map(({ behind = [] }) => behind.length)
    expect(told).toEqual([89, 89, 89, 89, 44, 0, 0])
  })

  test('is told again when ioredis sends the lease again', async () => {
    const { redis, storage } = await opened()
    await storage.write([{ ...NOTHING, append: ['1', '2', '3'].map((id) => keyed(id)) }])
    const sent: unknown[][] = []
    const { evalsha } = redis
    redis.evalsha = function (this: Redis, ...call: never) {
      sent.push(call)
      return evalsha.apply(this, call)
    } as never
    await runs(storage as never, 1)
    const [, ...again] = (await evalsha.apply(redis, sent.at(-1) as never)) as string[]
    expect(again.filter((_, n) => n % 9 === 0)).toEqual(['1', '2'])
  })

  test('is completed as far as it is still there, and what is to be leased only in its turn', async () => {
    const { redis, storage, key, places } = await filled('1', '2', '3', '4', '5')
    await redis.set(key('event:3'), 'something else')
    const take = { id: '5', leaseMs: 60_000 }
    expect(await storage.write([completing('1', ['2', '3'], { take })])).toEqual(APPLIED)
    expect(await redis.get(key('event:3'))).toBe('something else')
    expect(await redis.exists(key('event:2'))).toBe(0)
    expect(await places()).toEqual(['4', '5'])
    expect(await redis.zrange(key('blocked'), '0', '-1')).toEqual(['5'])
    expect(await leaseOf(storage, 9)).toMatchObject([{ id: '4', attempt: 1 }])
  })

  test('nothing of it is completed where the outcome is not applied', async () => {
    const { redis, prefix, storage } = await filled('1', '2', '3')
    await storage.write([{ ...NOTHING, append: [event('named', { fingerprint: 'f' })] }])
    const before = await everything(redis, prefix)
    const append = [event('named', { fingerprint: 'g' })]
    expect(await storage.write([{ ...completing('1', ['2']), append }])).toMatchObject([
      { status: 'duplicate' },
    ])
    const lost = completing('1', ['2'], { attempt: 7 })
    expect(await storage.write([lost])).toEqual([{ status: 'lost' }])
    expect(await everything(redis, prefix)).toEqual(before)
  })

  test('is completed in a MULTI', async () => {
    const { outbox, storage, places } = await filled('1', '2', '3', '4')
    const take = { id: '3', leaseMs: 60_000 }
    await outbox.transaction((multi) => storage.write([completing('1', ['2'], { take })], multi))
    expect(await places()).toEqual(['3', '4'])
    expect(await storage.write([complete('3')])).toEqual(APPLIED)
    expect(await leaseOf(storage, 9)).toMatchObject([{ id: '4' }])
  })
})
