import { expect, test } from 'vitest'
import { claimCheck, InMemoryOutbox, OutboxEventBus } from '../src/index.ts'
import { takeDue } from '../src/testing/harness.ts'

/** What an option may be at least and at most. */
const RANGES = [
  ['concurrency', 1, 10_000, (value: number) => ({ concurrency: value })],
  ['batchSize', 1, 1_000, (value: number) => ({ batchSize: value })],
  ['retry.maxAttempts', 1, 1_000_000, (value: number) => ({ retry: { maxAttempts: value } })],
  ['retry.factor', 1, 100, (value: number) => ({ retry: { factor: value } })],
  ['retry.jitter', 0, 1, (value: number) => ({ retry: { jitter: value } })],
] as const

test.each(RANGES)('%s from %d to %d, and nothing beyond', (name, least, most, options) => {
  const outbox = new InMemoryOutbox()
  for (const value of [least, least + (most - least) / 2, most].map((one) =>
    most > 100 ? Math.ceil(one) : one,
  )) {
    expect(() => new OutboxEventBus(outbox, options(value))).not.toThrow()
  }
  for (const value of [least - 1, most + 1]) {
    expect(() => new OutboxEventBus(outbox, options(value))).toThrow(`"${name}" is ${value}`)
  }
})

test('a heartbeat is shorter than half its lease', () => {
  const outbox = new InMemoryOutbox()
  expect(() => new OutboxEventBus(outbox, { lease: 2_001, heartbeat: 1_000 })).not.toThrow()
  for (const lease of [2_000, 999]) {
    expect(() => new OutboxEventBus(outbox, { lease, heartbeat: 1_000 })).toThrow('"heartbeat" is 1000')
  }
})

test('a payload of exactly the threshold stays in its event', async () => {
  const outbox = new InMemoryOutbox()
  const claims = async (bytes: number): Promise<boolean> => {
    const bus = new OutboxEventBus(outbox).use(claimCheck(outbox.sagaStore('1d'), { threshold: 100 }))
    await bus.emit('t', 'x'.repeat(bytes - 2))
    const [event] = await takeDue(outbox.storage, 1, 60_000)
    return 'outbox-claim' in (event?.headers ?? {})
  }
  expect([await claims(99), await claims(100), await claims(101)]).toEqual([false, false, true])
})

test('1000 levels of nesting, and no more', async () => {
  const bus = new OutboxEventBus(new InMemoryOutbox())
  const nested = (levels: number): unknown => (levels === 1 ? [] : [nested(levels - 1)])
  await bus.emit('t', nested(999))
  await bus.emit('t', nested(1_000))
  await expect(bus.emit('t', nested(1_001))).rejects.toThrow('nesting deeper than 1000')
})

test('a store keeps 16 MiB unless it is told otherwise', async () => {
  const store = new InMemoryOutbox().sagaStore('1d')
  const limit = 16 * 1024 * 1024
  for (const bytes of [limit - 1, limit]) await store.put('claim', Buffer.alloc(bytes))
  expect((await store.get('claim'))?.byteLength).toBe(limit)
  await expect(store.put('claim', Buffer.alloc(limit + 1))).rejects.toMatchObject({
    limit,
    actual: limit + 1,
  })
})
