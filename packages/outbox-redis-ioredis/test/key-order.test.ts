import type { Outcome } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
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

describe.skipIf(url === undefined)('A key in Redis', () => {
  test('keeps its events in order, and nothing of it is left when they are gone', async () => {
    const { redis, prefix, storage, key, places } = await filled('a', 'b', 'c')
    expect(await places()).toEqual(['a', 'b', 'c'])
    expect(await redis.zrange(key('blocked'), '0', '-1')).toEqual(['b', 'c'])
    expect(await redis.zrange(key('due:a'), '0', '-1')).toEqual([])
    for (const id of ['a', 'b', 'c']) {
      expect(await storage.write([complete(id)])).toEqual(APPLIED)
      await leaseOf(storage, 9)
    }
    expect(await everything(redis, prefix)).toEqual({})
  })

  test('any text of 255 bytes is a key', async () => {
    const { storage } = await opened()
    const keys = ['}', '{x}:', '\0', '\r\n', '\u{1d11e}'.repeat(63), '*', ' ', 'x'.repeat(255)]
    for (const turn of ['1', '2'])
      await storage.write(keys.map((key, n) => ({ ...NOTHING, append: [event(`${turn}-${n}`, { key })] })))
    const first = await leaseOf(storage, 99)
    expect(first.map(({ id, key }) => [id, key])).toEqual(keys.map((key, n) => [`1-${n}`, key]))
    await storage.write(first.map(({ id }) => complete(id)))
    expect((await leaseOf(storage, 99)).map(({ key }) => key)).toEqual(keys)
  })

  test('what is delayed waits for its own moment, too', async () => {
    const { redis, storage, key } = await filled('a')
    const at = 4_000_000_000_000
    await storage.write([{ ...NOTHING, append: [keyed('late', { due: { at } }), keyed('last')] }])
    await storage.write([complete('a')])
    expect(await redis.zscore(key('due:a'), 'late')).toBe(String(at))
    expect(await leaseOf(storage, 9)).toEqual([])
    expect(await storage.stats()).toMatchObject({ due: 0, blocked: 1 })
  })

  test('of a step in its place the first goes on, however often that is', async () => {
    const { storage, places } = await filled('0', 'waits')
    for (let n = 0; n < 5; n++) {
      const inPlace = { inPlace: true }
      const append = [keyed(`${n + 1}`, inPlace), keyed(`${n} beside`, inPlace), keyed(`${n} more`)]
      expect(await storage.write([complete(`${n}`, { append })])).toEqual(APPLIED)
      expect(await takeDue(storage, 9, 60_000)).toMatchObject([{ id: `${n + 1}` }])
    }
    const beside = ['4', '3', '2', '1', '0'].map((n) => `${n} beside`)
    expect(await places()).toEqual([
      '5',
      ...beside,
      'waits',
      ...['0', '1', '2', '3', '4'].map((n) => `${n} more`),
    ])
  })

  test('a step whose events are there already lets the next one be taken', async () => {
    const { storage, places } = await filled('a', 'b')
    await storage.write([{ ...NOTHING, append: [event('there', { due: { inMs: 60_000 } })] }])
    const append = [keyed('there', { inPlace: true })]
    expect(await storage.write([complete('a', { append })])).toEqual(APPLIED)
    expect(await places()).toEqual(['b'])
    expect(await leaseOf(storage, 9)).toMatchObject([{ id: 'b' }])
  })

  test('in a MULTI it is in the order of the calls, and of EXEC', async () => {
    const { outbox, storage, places } = await filled('a')
    await outbox.transaction(async (multi) => {
      await storage.write([{ ...NOTHING, append: [keyed('in-1')] }], multi)
      await storage.write([{ ...NOTHING, append: [keyed('outside')] }])
      await storage.write([complete('a', { append: [keyed('in-2')] })], multi)
      await storage.write([{ ...NOTHING, append: [keyed('in-3', { fingerprint: 'f' })] }], multi)
    })
    expect(await places()).toEqual(['outside', 'in-1', 'in-2', 'in-3'])
    expect(await leaseOf(storage, 9)).toMatchObject([{ id: 'outside' }])
  })

  test('those that something else has replaced hold up nobody', async () => {
    const { redis, storage, key, places } = await filled('a', 'b', 'c', 'd')
    await redis.set(key('event:b'), 'something else')
    await redis.del(key('event:c'))
    expect(await storage.write([complete('a')])).toEqual(APPLIED)
    expect(await places()).toEqual(['d'])
    expect(await leaseOf(storage, 9)).toMatchObject([{ id: 'd' }])
    expect(await storage.stats()).toMatchObject({ leased: 1, blocked: 0 })
  })

  test('that is something else is the fault of its own events', async () => {
    const { redis, prefix, storage, key } = await filled('a', 'b')
    await redis.set(key('key:other'), 'something else')
    const before = await everything(redis, prefix)
    const refused = { code: 'OUTBOX_STORAGE', blame: 'event', transient: false }
    for (const fingerprint of [null, 'f']) {
      const append = [event('x'), event('y', { key: 'other', fingerprint })]
      await expect(storage.write([{ ...NOTHING, append }])).rejects.toMatchObject(refused)
    }
    expect(await everything(redis, prefix)).toEqual(before)
    await redis.set(key('key:k'), 'something else')
    await expect(storage.write([complete('a')])).rejects.toMatchObject(refused)
    const bury = { kind: 'bury', id: 'a', attempt: 1, error: 'x' } as const
    expect(await storage.write([{ ...NOTHING, settle: bury }])).toEqual(APPLIED)
    expect((await storage.listDead({ limit: 1 })).events).toMatchObject([{ id: 'a', waitingBehind: 0 }])
  })

  test('sent again, neither an event nor a settlement has an effect', async () => {
    const { redis, prefix, storage } = await filled('a', 'b')
    const append = [keyed('c'), keyed('d', { fingerprint: 'f' })]
    await storage.write(append.map((one) => ({ ...NOTHING, append: [one] })))
    const step = complete('a', { append: [keyed('next', { inPlace: true })] })
    await storage.write([step])
    const before = await everything(redis, prefix)
    expect(await storage.write([{ ...NOTHING, append: append.slice(0, 1) }])).toEqual(APPLIED)
    expect(await storage.write([{ ...NOTHING, append: append.slice(1) }])).toMatchObject([
      { status: 'duplicate' },
    ])
    expect(await storage.write([step])).toEqual([{ status: 'lost' }])
    expect(await everything(redis, prefix)).toEqual(before)
  })
})

describe.skipIf(url === undefined)('Addresses in Redis', () => {
  test('are known as long as they have open events', async () => {
    const { redis, storage, key } = await opened()
    const known = () => redis.zrange(key('addresses'), '0', '-1')
    await storage.write([{ ...NOTHING, append: [event('a'), event('b', { address: 'a#b' })] }])
    expect(await known()).toEqual(['a', 'a#b'])
    await takeDue(storage, 9, 60_000)
    expect(await known()).toEqual(['a', 'a#b'])
    await storage.write([complete('a')])
    expect(await known()).toEqual(['a#b'])
    const lease = { id: 'b', attempt: 1 }
    await storage.write([{ ...NOTHING, settle: { kind: 'bury', ...lease, error: 'x' } }])
    expect(await known()).toEqual([])
    await storage.write([{ ...NOTHING, settle: { kind: 'revive', ...lease } }])
    expect(await known()).toEqual(['a#b'])
    await redis.del(key('event:b'))
    expect(await takeDue(storage, 9, 60_000)).toEqual([])
    expect(await known()).toEqual([])
  })

  test('many are merged oldest first, leases that have run out among them, none beyond its share', async () => {
    const { redis, storage, key } = await opened()
    const all: { id: string; at: number; address: string }[] = []
    for (let n = 0; n < 400; n++) {
      const at = 1 + ((n * 7_919) % 1_000)
      all.push({ id: `${n}`, at, address: `a#${(n * 31) % 17}` })
    }
    const append = all.map(({ id, at, address }) => event(id, { address, due: { at } }))
    await storage.write([{ ...NOTHING, append }])
    for (const { id, at, address } of all.filter((_, n) => n % 3 === 0)) {
      await redis
        .multi()
        .zrem(key(`due:${address}`), id)
        .zadd(key(`leased:${address}`), at, id)
        .exec()
    }
    const left = new Set(all)
    const oldest = () => [...left].toSorted((one, other) => one.at - other.at || (one.id < other.id ? -1 : 1))
    const addresses = Array.from({ length: 17 }, (_, n) => ({ address: `a#${n}`, limit: 1 + (n % 5) }))
    for (let round = 0; round < 6; round++) {
      const shares = new Map(addresses.map(({ address, limit }) => [address, limit]))
      const expected = oldest().filter(({ address }) => {
        const share = shares.get(address) ?? 0
        shares.set(address, share - 1)
        return share > 0
      })
      const taken = await storage.lease({ limit: 30, leaseMs: 60_000, addresses })
      expect(taken.map(({ id }) => id)).toEqual(expected.slice(0, 30).map(({ id }) => id))
      for (const one of expected.slice(0, 30)) left.delete(one)
    }
  })
})
