import { describe, expect, test } from 'vitest'
import {
  ForeignTransactionError,
  InMemoryOutbox,
  OutboxEventBus,
  TransactionMissingError,
} from '../src/index.ts'
import { outboxContract, takeDue } from '../src/testing/index.ts'
import { memoryBackend } from './memory-backend.ts'

outboxContract(memoryBackend)

describe('InMemoryOutbox', () => {
  const outcome = {
    append: [],
    put: [{ id: 'a', data: Uint8Array.of(1), expires: { inMs: 1000 } }],
    remove: [],
  }

  test.each(['commit', 'rollback'] as const)('refuses a handle after its %s', async (end) => {
    const outbox = new InMemoryOutbox({ logger: false })
    const tx = outbox.begin()
    await outbox.storage.write([outcome], tx)
    outbox[end](tx)
    await expect(outbox.storage.write([outcome], tx)).rejects.toThrow(TransactionMissingError)
    await expect(outbox.storage.getPayload('a', tx)).rejects.toThrow(TransactionMissingError)
    await expect(outbox.enlist(tx, async () => {})).rejects.toThrow(TransactionMissingError)
    expect(() => outbox.commit(tx)).toThrow(TransactionMissingError)
    expect(await outbox.storage.getPayload('a')).toEqual(end === 'commit' ? Uint8Array.of(1) : undefined)
  })

  test('refuses the handle of another outbox', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    const foreign = new InMemoryOutbox({ logger: false }).begin()
    await expect(outbox.storage.write([outcome], foreign)).rejects.toThrow(ForeignTransactionError)
    await expect(outbox.enlist(foreign, async () => {})).rejects.toThrow(ForeignTransactionError)
    expect(() => outbox.commit(foreign)).toThrow(ForeignTransactionError)
  })

  test('a commit that meets a change made meanwhile writes nothing and can be tried again', async () => {
    const outbox = new InMemoryOutbox({ logger: false })
    const bus = new OutboxEventBus(outbox)
    const rows: string[] = []
    const tx = outbox.begin()
    tx.onCommit(() => rows.push('order-1'))
    await outbox.enlist(tx, async () => {
      await bus.emit('other', {})
      await bus.emit('order.placed', { n: 1 }, { id: 'order-1' })
    })
    await bus.emit('order.placed', { n: 1 }, { id: 'order-1' })
    expect(() => outbox.commit(tx)).toThrow(
      expect.objectContaining({ code: 'OUTBOX_STORAGE', transient: true }),
    )
    expect(rows).toEqual([])
    expect((await outbox.stats()).due).toBe(1)
  })

  test('counts a backlog of 200,000 events', async () => {
    const { storage } = new InMemoryOutbox({ logger: false })
    const append = Array.from({ length: 200_000 }, (_, index) => {
      return {
        id: `${index}`,
        type: 'a',
        address: 'a',
        key: null,
        body: '1',
        headers: {},
        due: { inMs: 0 },
        fingerprint: null,
      }
    })
    await storage.write([{ append, put: [], remove: [] }])
    expect(await storage.stats()).toMatchObject({ due: 200_000, leased: 0 })
    expect(await takeDue(storage, 200_000, 60_000)).toHaveLength(200_000)
    expect(await storage.stats()).toMatchObject({ due: 0, leased: 200_000 })
  })
})
