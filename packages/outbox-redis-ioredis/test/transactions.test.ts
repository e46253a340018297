import type { ChainableCommander } from 'ioredis'
import { ForeignTransactionError, TransactionClosedError, TransactionMissingError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { connect, opened, url } from './open.ts'

describe.skipIf(url === undefined)('Transactions in Redis', () => {
  test('a failing command of the user’s own is reported, with what Redis did', async () => {
    const { redis, outbox, bus, key } = await opened()
    await redis.set(key('text'), 'x')
    const failing = outbox.transaction(async (multi) => {
      multi.lpush(key('text'), 'not a list')
      await bus.emit('a', {})
    })
    await expect(failing).rejects.toThrow(/command 1 of 2 in the MULTI failed .*Redis has applied the others/)
    await expect(failing).rejects.toMatchObject({ transient: false })
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('a command of the user’s own that Redis does not know refuses all of it, and is named', async () => {
    const { redis, outbox, bus, key } = await opened()
    const failing = outbox.transaction(async (multi) => {
      multi.set(key('row'), '1').call('NOSUCHCOMMAND')
      await bus.emit('a', {})
    })
    await expect(failing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    await expect(failing).rejects.toThrow(/NOSUCHCOMMAND.*nothing was written/)
    expect(await redis.exists(key('row'))).toBe(0)
    expect(await outbox.stats()).toMatchObject({ due: 0 })
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

  test('replies of the user’s own commands are not taken for ours', async () => {
    const { redis, outbox, storage, bus, key } = await opened()
    await redis.rpush(key('list'), 'lost', 'lost')
    await bus.emit('b', {})
    const [event] = await takeDue(storage, 1, 60_000)
    const settle = { kind: 'complete', id: event?.id ?? '', attempt: 1, keepMs: 0 } as const
    await outbox.transaction(async (multi) => {
      multi.lrange(key('list'), 0, -1)
      await bus.emit('a', {})
      multi.lrange(key('list'), 0, -1)
      await storage.write([{ settle, append: [], put: [], remove: [] }], multi)
      multi.lrange(key('list'), 0, -1)
    })
    expect(await outbox.stats()).toMatchObject({ due: 1, leased: 0 })
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

  test('a multi() that was executed takes no more events, whoever executed it', async () => {
    const { redis, outbox, bus } = await opened()
    const multi = redis.multi()
    await outbox.enlist(multi, () => bus.emit('a', {}))
    await multi.exec()
    await expect(outbox.enlist(multi, () => bus.emit('a', {}))).rejects.toThrow(TransactionMissingError)
    await expect(bus.emit('a', {}, { transaction: multi })).rejects.toThrow(TransactionMissingError)
    const executing = outbox.transaction(async (tx) => {
      await bus.emit('a', {})
      await tx.exec()
    })
    await expect(executing).rejects.toThrow(TransactionMissingError)
    expect(await outbox.stats()).toMatchObject({ due: 2 })
  })

  test('a multi() without a pipeline can’t be enlisted', async () => {
    const { redis, outbox } = await opened()
    const sending = redis.multi({ pipeline: false }) as unknown as ChainableCommander
    await expect(outbox.enlist(sending, async () => {})).rejects.toThrow(ForeignTransactionError)
  })
})
