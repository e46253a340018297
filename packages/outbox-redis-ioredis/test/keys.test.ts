import type { ChainableCommander } from 'ioredis'
import { OutboxEventBus, type Outcome, StorageError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { RedisIoredisOutbox } from '../src/index.ts'
import { event, everything, leaseOf, opened, url } from './open.ts'

const NOTHING = { append: [], put: [], remove: [] }

function complete(id: string, more: Partial<Outcome> = {}): Outcome {
  return { ...NOTHING, settle: { kind: 'complete', id, attempt: 1, keepMs: 0 }, ...more }
}

describe.skipIf(url === undefined)('Keys of ours that hold something else', () => {
  test.each(['due:a', 'leased:a', 'addresses', 'done', 'dead'])(
    '%s: named at the start, and nothing is written',
    async (name) => {
      const { prefix, redis, storage, key } = await opened()
      await storage.write([{ ...NOTHING, append: [event('x')] }])
      await leaseOf(storage, 1)
      await redis.del(key(name))
      await redis.set(key(name), 'something else')
      const before = await everything(redis, prefix)
      const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix, logger: false })
      await expect(outbox.initialize()).rejects.toThrow(`key "${key(name)}" holds a string`)
      const wrong = {
        code: 'OUTBOX_STORAGE',
        transient: false,
        message: expect.stringMatching(/WRONGTYPE.*prefix/),
      }
      const settles = (settle: Outcome['settle']) => () =>
        storage.write([
          { ...complete('x', { append: [event('y', { address: 'b' })] }), ...(settle && { settle }) },
        ])
      const lease = { id: 'x', attempt: 1 }
      const completes = () => storage.write([complete('x', { append: [event('y')] })])
      const users: Record<string, readonly (() => Promise<unknown>)[]> = {
        'due:a': [() => new OutboxEventBus(outbox).emit('a', {}), () => leaseOf(storage, 1), completes],
        'leased:a': [() => leaseOf(storage, 1), () => storage.extend([lease], 60_000), completes],
        addresses: [() => storage.waiting(), () => storage.stats(), completes],
        done: [() => storage.purge(1), settles({ kind: 'complete', ...lease, keepMs: 9_000 })],
        dead: [() => storage.listDead({ limit: 1 }), settles({ kind: 'bury', ...lease, error: 'x' })],
      }
      for (const use of users[name] ?? []) await expect(use()).rejects.toMatchObject(wrong)
      expect(await everything(redis, prefix)).toEqual(before)
    },
  )

  test.each(['leased:a', 'blocked', 'done', 'dead'])(
    '%s: an event is emitted all the same, into those that are due',
    async (name) => {
      const { redis, bus, key } = await opened()
      await redis.set(key(name), 'something else')
      const id = await bus.emit('a', {})
      expect(await redis.zrange(key('due:a'), '0', '-1')).toEqual([id])
      expect(await redis.hget(key(`event:${id}`), 'state')).toBe('waiting')
      expect(await redis.get(key(name))).toBe('something else')
    },
  )

  test('an outcome whose event can’t be written applies nothing, nor does its batch', async () => {
    const { prefix, redis, storage, key } = await opened()
    await storage.write([{ ...NOTHING, append: ['a', 'b', 'c'].map((id) => event(id)) }])
    await takeDue(storage, 3, 60_000)
    await redis.set(key('event:taken'), 'something else')
    const before = await everything(redis, prefix)
    const put = [{ id: 'claim', data: Uint8Array.of(1), expires: { inMs: 60_000 } }]
    const outcomes = [
      complete('a', { append: [event('next')], put }),
      complete('b', { append: [event('taken')] }),
      complete('c'),
    ]
    await expect(storage.write(outcomes)).rejects.toThrow(`WRONGTYPE ${key('event:taken')}`)
    expect(await everything(redis, prefix)).toEqual(before)
    await expect(storage.write(outcomes.slice(0, 1))).resolves.toEqual([{ status: 'applied' }])
  })

  test('an event that something else has replaced is gone; the others are delivered and settled', async () => {
    const { prefix, redis, outbox, storage, key } = await opened()
    await storage.write([{ ...NOTHING, append: ['a', 'b', 'c', 'd'].map((id) => event(id)) }])
    await redis.set(key('event:b'), 'something else')
    expect((await takeDue(storage, 4, 60_000)).map(({ id }) => id)).toEqual(['a', 'c', 'd'])
    await redis.set(key('event:c'), 'something else')
    const leases = ['a', 'c', 'd'].map((id) => ({ id, attempt: 1 }))
    expect(await storage.extend(leases, 60_000)).toEqual(['c'])
    expect(await storage.write(leases.map(({ id }) => complete(id)))).toEqual([
      { status: 'applied' },
      { status: 'lost' },
      { status: 'applied' },
    ])
    expect(await storage.listDead({ limit: 10 })).toEqual({ events: [] })
    await redis.zadd(key('leased:a'), '1', 'c')
    expect(await takeDue(storage, 4, 60_000)).toEqual([])
    expect(Object.keys(await everything(redis, prefix))).toEqual([key('event:b'), key('event:c')])
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0 })
  })

  test('a payload that something else has replaced is an error, and can be put again', async () => {
    const { redis, outbox, key } = await opened()
    const store = outbox.sagaStore('1h')
    await redis.rpush(key('saga:claim'), 'something else')
    await expect(store.get('claim')).rejects.toThrow(StorageError)
    await expect(store.get('claim')).rejects.toThrow(/WRONGTYPE.*prefix/)
    await store.put('claim', Uint8Array.of(7))
    expect([...((await store.get('claim')) ?? [])]).toEqual([7])
  })

  test('inside a transaction an event’s key is looked at before anything is queued', async () => {
    const { redis, outbox, bus, key } = await opened()
    await redis.set(key('event:mine'), 'something else')
    const failing = outbox.transaction(async (multi) => {
      multi.set(key('row'), '1')
      await bus.emit('a', {}, { id: 'mine' })
    })
    await expect(failing).rejects.toThrow(/WRONGTYPE/)
    expect(await redis.exists(key('row'))).toBe(0)
  })
})
