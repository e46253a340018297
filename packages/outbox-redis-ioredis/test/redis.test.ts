import { randomUUID } from 'node:crypto'
import { type ChainableCommander, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import {
  ConfigurationError,
  ForeignTransactionError,
  OutboxEventBus,
  StorageError,
  TransactionClosedError,
  TransactionMissingError,
  UnsupportedBackendError,
} from 'outbox-core'
import { recordingLogger, until } from 'outbox-core/testing'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { startServer } from '../../../test/servers/index.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import type { Server } from '../../../test/servers/server.ts'
import { RedisIoredisOutbox, type RedisIoredisOutboxOptions } from '../src/index.ts'

const url = serverUrl()
const clients: { disconnect(): void }[] = []
afterEach(() => {
  for (const client of clients.splice(0)) client.disconnect()
})

function connect(to = url): Redis {
  const client = new Redis(to ?? '')
  client.on('error', () => {})
  clients.push(client)
  return client
}

async function opened(redis = connect(), options: RedisIoredisOutboxOptions = {}) {
  const prefix = `t${randomUUID().replaceAll('-', '')}`
  const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix, logger: false, ...options })
  await outbox.initialize()
  return {
    prefix,
    redis,
    outbox,
    bus: new OutboxEventBus(outbox),
    key: (name: string) => `{${prefix}}:${name}`,
  }
}

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
    const { redis, outbox, bus } = await opened()
    const { storage } = outbox
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
    await storage.write((await storage.lease(9, 1_000)).map(completed))
    expect(await during(() => bus.emit('a', {}))).toBe(1)
    expect(await during(() => outbox.transaction(() => bus.emit('a', {})))).toBe(3)
    await bus.emitMany(Array.from({ length: 98 }, () => ({ type: 'a', payload: {} })))
    let events: Awaited<ReturnType<typeof storage.lease>> = []
    expect(
      await during(async () => {
        events = await storage.lease(100, 60_000)
      }),
    ).toBe(1)
    expect(events).toHaveLength(100)
    expect(await during(() => storage.write(events.map(completed)))).toBe(1)
    expect(await during(() => storage.lease(100, 1_000))).toBe(1)
    expect(await outbox.stats()).toEqual({ due: 0, leased: 0, dead: 0, oldestDueMs: null })
  })

  test('scripts that the server has forgotten are sent again', async () => {
    const { redis, outbox, bus } = await opened()
    await bus.emit('a', {})
    await redis.script('FLUSH')
    await bus.emit('a', {})
    await redis.script('FLUSH')
    await outbox.transaction(() => bus.emit('a', {}))
    expect(await outbox.stats()).toMatchObject({ due: 3 })
  })

  test('a failing command of the user’s own is reported, with what Redis did', async () => {
    const { redis, outbox, bus, key } = await opened()
    await redis.set(key('text'), 'x')
    const failing = outbox.transaction(async (multi) => {
      multi.lpush(key('text'), 'not a list')
      await bus.emit('a', {})
    })
    await expect(failing).rejects.toThrow(/command 1 of 2 in the MULTI failed .*Redis has applied the others/)
  })

  test('a watched key that has changed refuses all of it', async () => {
    const { redis, outbox, bus, key } = await opened()
    await redis.watch(key('watched'))
    const other = connect()
    await other.set(key('watched'), 'changed')
    const failing = outbox.transaction(() => bus.emit('a', {}))
    await expect(failing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    expect(await outbox.stats()).toMatchObject({ due: 0 })
  })

  test('only an open multi() of this client can be enlisted', async () => {
    const { redis, outbox, bus } = await opened()
    await expect(outbox.enlist(connect().multi(), async () => {})).rejects.toThrow(ForeignTransactionError)
    await expect(outbox.enlist(redis.pipeline(), async () => {})).rejects.toThrow(TransactionMissingError)
    const executed = redis.multi().ping()
    await executed.exec()
    await expect(outbox.enlist(executed, async () => {})).rejects.toThrow(TransactionMissingError)
    let late: ChainableCommander | undefined
    await outbox.transaction((multi) => {
      late = multi
    })
    await expect(bus.emit('a', {}, { transaction: late })).rejects.toThrow(TransactionClosedError)
  })

  test('a key of another type is named before anything is written', async () => {
    const { redis, prefix, key } = await opened()
    await redis.set(key('due'), 'something else')
    const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix, logger: false })
    await expect(outbox.initialize()).rejects.toThrow(/holds a string/)
    await expect(new OutboxEventBus(outbox).emit('a', {})).rejects.toThrow(StorageError)
    expect(await redis.keys(key('event:*'))).toEqual([])
  })

  test('a prefix that is none is refused', () => {
    for (const prefix of ['', '{x}', 'a b', 'a:*', 'é', '1']) {
      expect(() => new RedisIoredisOutbox(connect(), { prefix })).toThrow(ConfigurationError)
    }
  })

  test('a listener’s connection wakes dispatchers of other processes', async () => {
    const redis = connect()
    const { prefix, bus } = await opened(redis, { notify: true })
    const listening = new RedisIoredisOutbox<ChainableCommander>(connect(), {
      prefix,
      listener: connect(),
      logger: false,
    })
    const sleepy = new OutboxEventBus(listening, { poll: { min: '1h', max: '1h' } })
    sleepy.on('a', () => {})
    await sleepy.start()
    await Promise.all([sleepy.waitFor('a'), bus.emit('a', {})])
    await sleepy.stop()
  })

  test('ioredis 5 does as well', async () => {
    const redis = new Redis5(url ?? '')
    clients.push(redis)
    const prefix = `t${randomUUID().replaceAll('-', '')}`
    const outbox = new RedisIoredisOutbox(redis, { prefix, logger: false })
    const bus = new OutboxEventBus(outbox)
    await outbox.initialize()
    bus.on('a', () => {})
    await bus.start()
    await Promise.all([
      bus.waitFor('a'),
      outbox.transaction(async (multi) => {
        multi.set(`{${prefix}}:row`, '1')
        await bus.emit('a', {})
        await outbox.sagaStore('1h').put('claim', Uint8Array.of(7))
      }),
    ])
    await bus.stop()
    expect(await redis.get(`{${prefix}}:row`)).toBe('1')
    expect([...((await outbox.sagaStore('1h').get('claim')) ?? [])]).toEqual([7])
  })
})

describe('a server of its own', () => {
  let server: Server | undefined
  afterAll(async () => {
    await server?.stop()
  })

  test('eviction is refused, memory that is full is a passing error, and a restart is survived', {
    timeout: 60_000,
  }, async ({ skip }) => {
    server = await startServer('redis')
    if (!server?.restart || !server.kill) return skip()
    const redis = connect(server.url)
    const logger = recordingLogger()
    const { prefix, outbox, bus } = await opened(redis)

    await redis.config('SET', 'maxmemory-policy', 'allkeys-lru')
    const evicting = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix, logger })
    await expect(evicting.initialize()).rejects.toThrow(UnsupportedBackendError)
    await new RedisIoredisOutbox<ChainableCommander>(redis, {
      prefix,
      logger,
      allowEviction: true,
    }).initialize()
    await redis.config('SET', 'maxmemory-policy', 'noeviction')
    await redis.config('SET', 'appendonly', 'no')
    await evicting.initialize()
    expect(logger.lines.filter(({ message }) => message.includes('append-only'))).toHaveLength(1)
    await redis.config('SET', 'appendonly', 'yes')

    await redis.config('SET', 'maxmemory', '1')
    await expect(bus.emit('a', {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toMatchObject({ transient: true })
    await redis.config('SET', 'maxmemory', '0')
    expect(await outbox.stats()).toMatchObject({ due: 0 })

    await redis.config('SET', 'appendfsync', 'always')
    let handled = 0
    bus.on('a', () => {
      handled++
    })
    await bus.start()
    await bus.emit('a', {})
    await until(() => handled === 1)
    await server.kill()
    await server.restart()
    await until(() =>
      bus.emit('a', {}).then(
        () => true,
        () => false,
      ),
    )
    await until(() => handled >= 2)
    await bus.stop()
  })
})

function completed({ id, attempt }: { id: string; attempt: number }) {
  return { settle: { kind: 'complete', id, attempt, keepMs: 0 }, append: [], put: [], remove: [] } as const
}
