import { type ChainableCommander, Redis } from 'ioredis'
import { ConfigurationError, OutboxEventBus } from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { RedisIoredisOutbox } from '../src/index.ts'
import { connect, event, leaseOf, opened, url } from './open.ts'

describe.skipIf(url === undefined)('Redis', () => {
  test('a payload is binary under {prefix}:saga:<claim id>, and Redis itself lets it expire', async () => {
    const { redis, outbox, key } = await opened()
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1, 2, 3))
    expect(await redis.pttl(key('saga:claim'))).toBeGreaterThan(3_590_000)
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1, 2, 3), new Date(Date.now() + 300))
    expect(await redis.pttl(key('saga:claim'))).toBeLessThanOrEqual(300)
    expect((await redis.getBuffer(key('saga:claim')))?.subarray(0, 2)).toEqual(Buffer.from('OS'))
    await until(async () => (await redis.exists(key('saga:claim'))) === 0)
    expect(await outbox.sagaStore('1h').get('claim')).toBeUndefined()
  })

  test('one command for an emit, for a lease, for an idle poll, for settling a hundred', async () => {
    const { redis, outbox, storage, bus } = await opened()
    let commands = 0
    const { sendCommand } = redis
    redis.sendCommand = function (...args) {
      commands++
      return sendCommand.apply(this, args)
    }
    const during = async (work: () => Promise<unknown>): Promise<number> => {
      const before = commands
      await work()
      return commands - before
    }
    await bus.emit('warm', {})
    await storage.write((await takeDue(storage, 9, 1_000)).map(completed))
    expect(await during(() => bus.emit('a', {}))).toBe(1)
    expect(await during(() => outbox.transaction(() => bus.emit('a', {})))).toBe(3)
    await bus.emitMany(Array.from({ length: 98 }, () => ({ type: 'a', payload: {} })))
    let events: Awaited<ReturnType<typeof storage.lease>> = []
    expect(
      await during(async () => {
        events = await leaseOf(storage, 100)
      }),
    ).toBe(1)
    expect(events).toHaveLength(100)
    expect(await during(() => storage.write(events.map(completed)))).toBe(1)
    expect(await during(() => leaseOf(storage, 100))).toBe(1)
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0, oldestDueMs: null })
    expect(await during(() => outbox.sagaStore('1h').put('claim', Uint8Array.of(1)))).toBe(1)
    expect(await during(() => outbox.sagaStore('1h').get('claim'))).toBe(1)
  })

  test('no pipeline but a transaction’s: those of ioredis burden the garbage collector', async () => {
    const { redis, outbox, storage, bus } = await opened()
    const made: string[] = []
    for (const kind of ['pipeline', 'multi'] as const) {
      const begin = redis[kind].bind(redis) as () => ChainableCommander
      redis[kind] = (() => {
        made.push(kind)
        return begin()
      }) as never
    }
    await bus.emit('a', {})
    await storage.write((await takeDue(storage, 9, 60_000)).map(completed))
    expect(made).toEqual([])
    await outbox.transaction(() => bus.emit('a', {}))
    expect(made).toEqual(['multi'])
  })

  test('a payload alone is put by a plain SET, whose bytes no script has to copy', async () => {
    const { redis, outbox } = await opened()
    const names: string[] = []
    const { sendCommand } = redis
    redis.sendCommand = function (...args) {
      names.push(args[0].name)
      return sendCommand.apply(this, args)
    }
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(2), new Date(Date.now() + 60_000))
    expect(names).toEqual(['set', 'set'])
    expect([...((await outbox.sagaStore('1h').get('claim')) ?? [])]).toEqual([2])
  })

  test('more at once than Lua, JavaScript and Redis take arguments', async () => {
    const { outbox, storage } = await opened()
    const append = Array.from({ length: 9_000 }, (_, n) => event(`event-${n}`))
    await storage.write([{ append, put: [], remove: [] }])
    const events = await takeDue(storage, 9_000, 60_000)
    expect(events).toHaveLength(9_000)
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 9_000 })
    await storage.write(events.map(completed))
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0 })
    await outbox.transaction((multi) => storage.write([{ append, put: [], remove: [] }], multi))
    expect(await outbox.stats()).toMatchObject({ due: 9_000, leased: 0 })
    const tooMany = Array.from({ length: 19 }, () => append).flat()
    await expect(storage.write([{ append: tooMany, put: [], remove: [] }])).rejects.toMatchObject({
      code: 'OUTBOX_TRANSACTION_TOO_LARGE',
    })
  })

  test('scripts that the server has forgotten are sent again', async () => {
    const { redis, outbox, bus } = await opened()
    await bus.emit('a', {})
    await redis.script('FLUSH')
    await bus.emit('a', {})
    await redis.script('FLUSH')
    await outbox.transaction(() => bus.emit('a', {}))
    await redis.script('FLUSH')
    expect(await outbox.stats()).toMatchObject({ due: 3 })
  })

  test('a prefix that is none is refused', () => {
    for (const prefix of ['', '{x}', 'a b', 'a:*', 'é', '1', 'x'.repeat(49)]) {
      expect(() => new RedisIoredisOutbox(connect(), { prefix })).toThrow(ConfigurationError)
    }
  })

  test('a client that would leave calls unanswered for ever is refused', () => {
    const silent = { autoResendUnfulfilledCommands: false }
    expect(() => new RedisIoredisOutbox(connect(url, silent))).toThrow(/autoResendUnfulfilledCommands/)
    expect(() => new RedisIoredisOutbox(connect(url, { ...silent, commandTimeout: 1_000 }))).not.toThrow()
  })

  test('a listener’s connection wakes dispatchers of other processes, each until it stops', async () => {
    const { prefix, bus } = await opened(connect(), { notify: true })
    const listening = new RedisIoredisOutbox<ChainableCommander>(connect(), {
      prefix,
      listener: connect(),
      logger: false,
    })
    const sleepy = [0, 1].map(() => new OutboxEventBus(listening, { poll: { min: '1h', max: '1h' } }))
    for (const one of sleepy) {
      one.on('a', () => {})
      await one.start()
    }
    const woken = (buses: OutboxEventBus[]) => Promise.race(buses.map((one) => one.waitFor('a')))
    await Promise.all([woken(sleepy), bus.emit('a', {})])
    await sleepy[0]?.stop()
    await Promise.all([woken(sleepy.slice(1)), bus.emit('a', {})])
    await sleepy[1]?.stop()
  })

  test('a listener that is closed is a typed error', async () => {
    const listener = new Redis(url ?? '')
    listener.disconnect()
    const { storage } = await opened(connect(), { listener })
    await expect(storage.listen?.(() => {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE' })
  })
})

function completed({ id, attempt }: { id: string; attempt: number }) {
  return { settle: { kind: 'complete', id, attempt, keepMs: 0 }, append: [], put: [], remove: [] } as const
}
