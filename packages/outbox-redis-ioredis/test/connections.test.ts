import { type ChainableCommander, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { StorageError } from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { RedisIoredisOutbox } from '../src/index.ts'
import { closedAfterwards, connect, everything, opened, url } from './open.ts'

const UNKNOWN = { code: 'OUTBOX_UNKNOWN_OUTCOME' }
const CLIENTS = [
  ['ioredis 6', Redis],
  ['ioredis 5', Redis5 as unknown as typeof Redis],
] as const

const LAZY = { lazyConnect: true }

describe.skipIf(url === undefined)('Connections to Redis', () => {
  test.each(
    CLIENTS.flatMap(([name, Client]) => [
      [name, 'transaction', Client] as const,
      [name, 'enlist', Client] as const,
    ]),
  )('%s, %s: an EXEC whose answer was lost is not sent again', async (_name, way, Client) => {
    const { redis, outbox, bus, key } = await opened(closedAfterwards(new Client(url ?? '')))
    const other = connect()
    redis.stream.pause()
    const emits = async (multi: ChainableCommander): Promise<void> => {
      multi.rpush(key('rows'), 'row')
      await bus.emit('a', {})
    }
    const multi = redis.multi()
    const work =
      way === 'enlist' ? outbox.enlist(multi, emits).then(() => multi.exec()) : outbox.transaction(emits)
    const lost = expect(work).rejects.toThrow(/connection to Redis was lost|connection lost/)
    await until(async () => (await other.exists(key('rows'))) === 1)
    redis.stream.destroy()
    await lost
    expect(await redis.lrange(key('rows'), 0, -1)).toEqual(['row'])
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test.each(
    CLIENTS.flatMap(([name, Client]) => [
      [name, 'one by one', new Client(url ?? '', LAZY)] as const,
      [name, 'auto-pipelined', new Client(url ?? '', { ...LAZY, enableAutoPipelining: true })] as const,
    ]),
  )(
    '%s, %s: an event that was handled before its emit was answered does not come back',
    async (_name, _way, client) => {
      const { prefix, redis, bus, outbox } = await opened(closedAfterwards(client))
      await bus.emit('warm', {})
      const { storage } = new RedisIoredisOutbox<ChainableCommander>(connect(), { prefix, logger: false })
      const completeAll = async (): Promise<void> => {
        for (const { id, attempt } of await takeDue(storage, 10, 60_000)) {
          const settle = { kind: 'complete', id, attempt, keepMs: 0 } as const
          await storage.write([{ settle, append: [], put: [], remove: [] }])
        }
      }
      await completeAll()
      redis.stream.pause()
      const lost = expect(bus.emit('a', {})).rejects.toMatchObject(UNKNOWN)
      await until(async () => (await storage.stats()).due === 1)
      await completeAll()
      redis.stream.destroy()
      await lost
      expect(await everything(redis, prefix)).toEqual({})
      await bus.emit('a', {})
      expect(await outbox.stats()).toMatchObject({ due: 1 })
    },
  )

  test.each([
    'Connection is closed.',
    'Command aborted due to connection close',
    'Command timed out',
    "Socket timeout. Expecting data, but didn't receive any in 1000ms.",
    'Reached the max retries per request limit (which is 20). Refer to "maxRetriesPerRequest" option for details.',
  ])('a write that ioredis fails with “%s” is an unknown outcome', async (message) => {
    const { redis, outbox, bus } = await opened()
    redis.sendCommand = (command) => {
      command.reject(new Error(message))
      return command.promise
    }
    await expect(bus.emit('a', {})).rejects.toMatchObject(UNKNOWN)
    await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toMatchObject(UNKNOWN)
  })

  test.each(CLIENTS)('%s: a connection that is closed answers every pending call', async (_name, Client) => {
    const { redis, storage, bus, outbox } = await opened(closedAfterwards(new Client(url ?? '')))
    redis.stream.pause()
    const pending = [
      bus.emit('a', {}),
      outbox.transaction(() => bus.emit('a', {})),
      takeDue(storage, 1, 1_000),
      storage.extend([{ id: 'x', attempt: 1 }], 1_000),
      storage.keep('x', 1_000),
      storage.getPayload('x'),
      storage.listDead({ limit: 1 }),
      storage.stats(),
      storage.purge(1),
      outbox.initialize(),
    ]
    const settled = Promise.allSettled(pending)
    redis.disconnect()
    const codes = (await settled).map((result) =>
      result.status === 'rejected' ? result.reason.code : result,
    )
    expect(codes).toEqual([UNKNOWN.code, UNKNOWN.code, ...Array(8).fill('OUTBOX_STORAGE')])
    await expect(storage.stats()).rejects.toThrow(StorageError)
  })

  test.each(CLIENTS)(
    '%s: without an offline queue nothing was written, and that is known',
    async (_name, Client) => {
      const client = new Client(url ?? '', { enableOfflineQueue: false, lazyConnect: true })
      await client.connect()
      const { redis, outbox, storage, bus } = await opened(closedAfterwards(client))
      redis.stream.destroy()
      await until(() => redis.status !== 'ready')
      const refused = { code: 'OUTBOX_STORAGE', transient: true }
      await expect(bus.emit('a', {})).rejects.toMatchObject(refused)
      await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toMatchObject(refused)
      await expect(takeDue(storage, 1, 1_000)).rejects.toMatchObject(refused)
      await until(() => redis.status === 'ready')
      await bus.emit('a', {})
      expect(await outbox.stats()).toMatchObject({ due: 1 })
    },
  )
})
