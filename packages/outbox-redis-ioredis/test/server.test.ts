import type { ChainableCommander, Redis } from 'ioredis'
import { type Outcome, UnsupportedBackendError } from 'outbox-core'
import { recordingLogger, takeDue, until } from 'outbox-core/testing'
import { afterEach, describe, expect, test } from 'vitest'
import { type OwnServer, startOwnServer } from '../../../test/servers/index.ts'
import { RedisIoredisOutbox } from '../src/index.ts'
import { connect, event, everything, expireLease, opened } from './open.ts'

const servers: OwnServer[] = []
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.kill()))
})

async function ownServer() {
  const server = await startOwnServer('redis')
  if (server) servers.push(server)
  return server
}

const NOTHING = { append: [], put: [], remove: [] }
const PASSING = { code: 'OUTBOX_STORAGE', transient: true }

function refusal(reply: string) {
  return { ...PASSING, message: expect.stringContaining(reply) }
}

describe('A Redis server of its own', { timeout: 60_000 }, () => {
  test('memory that is full refuses what is new, writes nothing of it, and lets end what is under way', async ({
    skip,
  }) => {
    const redis = connect((await ownServer())?.url ?? skip())
    const { prefix, outbox, storage, bus, key } = await opened(redis)
    const put = (id: string) => ({ id, data: Buffer.alloc(1_000), expires: { inMs: 60_000 } })
    await storage.write([
      { ...NOTHING, append: ['a', 'b', 'c', 'd', 'e', 'f'].map((id) => event(id)), put: [put('old')] },
    ])
    expect(await takeDue(storage, 5, 60_000)).toHaveLength(5)
    const keyed = (id: string) => event(id, { key: 'k', type: 'k', address: 'k' })
    await storage.write([{ ...NOTHING, append: [keyed('k1'), keyed('k2')] }])
    const ofKey = { limit: 9, leaseMs: 60_000, addresses: [{ address: 'k', limit: 9 }] }
    expect(await storage.lease(ofKey)).toHaveLength(1)
    await expireLease(redis, key, 'e')
    await redis.config('SET', 'maxmemory', '1')

    const before = await everything(redis, prefix)
    await expect(bus.emit('a', {})).rejects.toMatchObject(refusal('OOM'))
    const behind = { ...NOTHING, append: [keyed('k3')] }
    await expect(storage.write([behind])).rejects.toMatchObject(refusal('OOM'))
    await expect(outbox.sagaStore('1h').put('new', new Uint8Array(9))).rejects.toMatchObject(refusal('OOM'))
    const transaction = outbox.transaction(async (multi) => {
      multi.del(key('event:a'))
      await bus.emit('a', {})
    })
    await expect(transaction).rejects.toMatchObject(refusal('OOM'))
    expect(await everything(redis, prefix)).toEqual(before)

    const applied = [{ status: 'applied' }]
    const settles = (outcome: Outcome) => expect(storage.write([outcome])).resolves.toEqual(applied)
    expect(await storage.extend([{ id: 'a', attempt: 1 }], 60_000)).toEqual([])
    await settles({
      settle: { kind: 'complete', id: 'a', attempt: 1, keepMs: 0 },
      append: [event('next')],
      put: [put('new')],
      remove: ['old'],
    })
    await settles({ ...NOTHING, settle: { kind: 'complete', id: 'b', attempt: 1, keepMs: 60_000 } })
    await settles({ ...NOTHING, settle: { kind: 'bury', id: 'c', attempt: 1, error: 'because' } })
    await settles({
      ...NOTHING,
      settle: { kind: 'retry', id: 'd', attempt: 1, delayMs: 60_000, error: 'later', counted: false },
    })
    // One whose lease has run out, then those that are due.
    expect((await takeDue(storage, 1, 60_000)).map(({ id }) => id)).toEqual(['e'])
    expect((await takeDue(storage, 9, 60_000)).map(({ id }) => id)).toEqual(['f', 'next'])
    expect(await outbox.deadLetters.retry('c')).toBe(1)
    const inPlace = [{ ...keyed('here'), inPlace: true }]
    await settles({
      ...{ ...NOTHING, append: inPlace },
      settle: { kind: 'complete', id: 'k1', attempt: 1, keepMs: 60_000 },
    })
    expect((await storage.lease(ofKey)).map(({ id }) => id)).toEqual(['here'])
    await settles({ ...NOTHING, settle: { kind: 'complete', id: 'here', attempt: 1, keepMs: 0 } })
    expect((await storage.lease(ofKey)).map(({ id }) => id)).toEqual(['k2'])
    await redis.config('SET', 'maxmemory', '0')
    expect(await outbox.stats()).toMatchObject({ due: 1, leased: 4, dead: 0, blocked: 0 })
    expect((await everything(redis, prefix))[key('saga:new')]).toBeDefined()
  })

  test('memory that becomes full between MULTI and EXEC leaves no transaction half applied', async ({
    skip,
  }) => {
    const redis = connect((await ownServer())?.url ?? skip())
    const { outbox, bus, key } = await opened(redis)
    const other = connect(`redis://127.0.0.1:${redis.options.port}`)
    await redis.set(key('row'), 'there')
    const { stream } = redis
    const write = stream.write.bind(stream) as (data: Buffer) => boolean
    // Sends EXEC after the rest.
    stream.write = ((data: Buffer | string) => {
      const bytes = Buffer.from(data)
      const exec = bytes.lastIndexOf('*1\r\n$4\r\nexec')
      if (exec === -1) return write(bytes)
      write(bytes.subarray(0, exec))
      void queued(other, 2)
        .then(() => other.config('SET', 'maxmemory', '1'))
        .then(() => write(bytes.subarray(exec)))
      return true
    }) as typeof stream.write
    await outbox.transaction(async (multi) => {
      multi.del(key('row'))
      await bus.emit('a', {})
    })
    expect(await redis.exists(key('row'))).toBe(0)
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('a replica, and a server that is loading, refuse with a passing error', async ({ skip }) => {
    const redis = connect((await ownServer())?.url ?? skip())
    const master = await ownServer()
    const other = connect(master?.url)
    const { outbox, storage, bus, key } = await opened(redis)
    await other.eval("for n = 1, 3000 do redis.call('SET', n, string.rep('x', 4096)) end", 0)
    // Slowly enough for commands to find it loading what the master has.
    await redis.config('SET', 'key-load-delay', '500')
    await other.config('SET', 'rdbcompression', 'no')
    await other.config('SET', 'repl-diskless-sync-delay', '0')
    // Of a master that is not there.
    await redis.replicaof('127.0.0.1', '1')
    await expect(bus.emit('a', {})).rejects.toMatchObject(refusal('READONLY'))
    const reading = outbox.transaction(async (multi) => {
      multi.get(key('row'))
      await bus.emit('a', {})
    })
    await expect(reading).rejects.toMatchObject(refusal('READONLY'))
    // Also where everything is there already.
    await expect(outbox.initialize()).rejects.toMatchObject(refusal('connect to the master'))
    await redis.replicaof('127.0.0.1', new URL(master?.url ?? '').port)
    await until(async () => (await redis.info('persistence')).includes('\nloading:1'))
    await expect(bus.emit('a', {})).rejects.toMatchObject(refusal('LOADING'))
    await expect(takeDue(storage, 1, 1_000)).rejects.toMatchObject(refusal('LOADING'))
    // Redis 6.2 takes no setting while it is loading, and is slow to the end.
    await redis.config('SET', 'key-load-delay', '0').catch(() => {})
    await until(async () => (await redis.info('persistence')).includes('\nloading:0'))
    await redis.replicaof('NO', 'ONE')
    await bus.emit('a', {})
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('one that evicts is refused, one without AOF is warned about once', async ({ skip }) => {
    const redis = connect((await ownServer())?.url ?? skip())
    const logger = recordingLogger()
    const outbox = (options = {}) => new RedisIoredisOutbox<ChainableCommander>(redis, { logger, ...options })
    await outbox().initialize()
    expect(logger.lines).toEqual([])
    await redis.config('SET', 'maxmemory-policy', 'allkeys-lru')
    await expect(outbox().initialize()).rejects.toThrow(UnsupportedBackendError)
    await expect(outbox().initialize()).rejects.toThrow(/maxmemory-policy is allkeys-lru.*allowEviction/)
    await outbox({ allowEviction: true }).initialize()
    await redis.config('SET', 'maxmemory-policy', 'noeviction', 'appendonly', 'no').catch(async () => {
      await redis.config('SET', 'maxmemory-policy', 'noeviction')
      await redis.config('SET', 'appendonly', 'no')
    })
    const forgetful = outbox()
    await forgetful.initialize()
    await forgetful.sagaStore('1h').initialize()
    expect(logger.lines.map(({ level, message }) => [level, message.includes('append-only')])).toEqual([
      ['warn', true],
    ])
  })

  test('a user who may do nothing dangerous is served, and told what nobody has checked', async ({
    skip,
  }) => {
    const { url } = (await ownServer()) ?? skip()
    const admin = connect(url)
    const rules = ['on', '>secret', '~{mine}:*', 'resetchannels', '&{mine}:*', '+@all', '-@dangerous']
    await admin.call('ACL', 'SETUSER', 'app', ...rules)
    const redis = connect(url, { username: 'app', password: 'secret', enableReadyCheck: false })
    const logger = recordingLogger()
    const outbox = new RedisIoredisOutbox<ChainableCommander>(redis, { prefix: 'mine', logger, notify: true })
    await outbox.initialize()
    expect(logger.lines.map(({ message }) => message)).toEqual([expect.stringContaining('+info')])
    await worksFor(outbox, redis)
  })

  test('the dispatcher survives a server that is killed and started again', async ({ skip }) => {
    const server = (await ownServer()) ?? skip()
    const { bus } = await opened(connect(server.url))
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

async function worksFor(outbox: RedisIoredisOutbox<ChainableCommander>, redis: Redis): Promise<void> {
  const store = outbox.sagaStore('1h')
  await outbox.transaction(async (multi) => {
    multi.set('{mine}:row', '1')
    await store.put('claim', Uint8Array.of(7))
  })
  expect([...((await store.get('claim')) ?? [])]).toEqual([7])
  expect(await redis.get('{mine}:row')).toBe('1')
}

/** Until the server holds so many commands of somebody's MULTI. */
function queued(redis: Redis, commands: number): Promise<void> {
  return until(async () => ((await redis.client('LIST')) as string).includes(` multi=${commands} `))
}
