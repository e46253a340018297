import { describe, expect, test } from 'vitest'
import {
  activity,
  type BusOptions,
  InMemoryOutbox,
  OutboxEventBus,
  routingSlip,
  SagaEngine,
} from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import { ManualClock, takeDue, until } from '../src/testing/index.ts'

/** A bus on a clock that stands still, and a look at what is stored. */
function still(options: BusOptions = {}) {
  const clock = new ManualClock()
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const bus = new OutboxEventBus(outbox, options)
  return { clock, outbox, bus, storage: outbox.storage as InMemoryStorage }
}

describe('heartbeat', () => {
  test('goes on after one that failed', async () => {
    const { clock, bus, storage } = still({ lease: '30s', heartbeat: '10s' })
    const attempts: number[] = []
    const { promise, resolve } = Promise.withResolvers<void>()
    bus.on('long', async (_, { attempt }) => {
      attempts.push(attempt)
      await promise
    })
    const { extend } = storage
    storage.extend = () => {
      storage.extend = extend
      return Promise.reject(new Error('database is away'))
    }
    await bus.emit('long', {})
    await bus.start()
    await clock.advance(120_000)
    expect(attempts).toEqual([1])
    resolve()
    await bus.stop()
    expect(storage.events.size).toBe(0)
  })

  test('ends the earlier attempt, and only that, where the same worker has leased an event again', async () => {
    const { clock, bus, storage } = still({ lease: '30s', heartbeat: '10s' })
    const signals: AbortSignal[] = []
    const { promise, resolve } = Promise.withResolvers<void>()
    bus.on('long', async (_, { signal }) => {
      signals.push(signal)
      await promise
    })
    const { extend } = storage
    storage.extend = () => Promise.reject(new Error('database is away'))
    await bus.emit('long', {})
    await bus.start()
    await clock.advance(32_000)
    storage.extend = extend
    await clock.advance(120_000)
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, false])
    resolve()
    await bus.stop()
    expect([signals.length, storage.events.size]).toEqual([2, 0])
  })

  test('keeps an event from its handler whose lease was lost while it waited for its turn', async () => {
    const { clock, bus, storage } = still({ lease: '30s', heartbeat: '10s', concurrency: 1 })
    const handled: unknown[] = []
    const { promise, resolve } = Promise.withResolvers<void>()
    bus.on('test', async ({ payload }) => {
      handled.push(payload)
      if (payload === 'first') await promise
    })
    await bus.emitMany(['first', 'second'].map((payload) => ({ type: 'test', payload })))
    await bus.start()
    await clock.advance(1_000)
    for (const event of storage.events.values()) if (event.body === '"second"') event.attempt++
    await clock.advance(20_000)
    resolve()
    await clock.advance(1_000)
    await bus.stop()
    expect(handled).toEqual(['first'])
  })
})

describe('purge', () => {
  const expired = (storage: InMemoryStorage, count: number): void => {
    for (let n = 0; n < count; n++)
      storage.payloads.set(`payload-${n}`, { data: new Uint8Array(), expiresAt: 1 })
  }

  test('runs again and again while the bus runs, after a failure too, and no longer', async () => {
    const { clock, bus, storage } = still({ purgeInterval: '1m' })
    await bus.start()
    const { purge } = storage
    for (let round = 1; round <= 3; round++) {
      expired(storage, 10)
      if (round === 2) storage.purge = () => Promise.reject(new Error('database is away'))
      await clock.advance(60_000)
      expect(storage.payloads.size).toBe(round === 2 ? 10 : 0)
      storage.purge = purge
    }
    await bus.stop()
    expired(storage, 10)
    await clock.advance(600_000)
    expect(storage.payloads.size).toBe(10)
  })

  test('takes all there is in one round, in bounded batches', async () => {
    const { clock, bus, outbox, storage } = still({ purgeInterval: '1m' })
    const { purge } = storage
    const calls: [number, boolean | undefined][] = []
    storage.purge = (limit: number, options?: { background?: boolean }) => {
      calls.push([limit, options?.background])
      return purge.call(storage, limit)
    }
    expired(storage, 2_500)
    await bus.start()
    await clock.advance(60_000)
    await bus.stop()
    expect(storage.payloads.size).toBe(0)
    expired(storage, 2_500)
    expect(await outbox.sagaStore('1h').cleanup()).toBe(2_500)
    expect(calls).toEqual([...Array(3).fill([1_000, true]), ...Array(3).fill([1_000, undefined])])
  })
})

describe('polling', () => {
  const leases = (storage: InMemoryStorage): { count: number } => {
    const counted = { count: 0 }
    const { lease } = storage
    storage.lease = (request) => {
      counted.count++
      return lease.call(storage, request)
    }
    return counted
  }

  test('backs off while nothing is due, from the shortest pause to the longest', async () => {
    const { clock, bus, storage } = still({ poll: { min: 10, max: '1s' } })
    const polls = leases(storage)
    bus.on('a', () => {})
    await bus.start()
    await clock.advance(630)
    // At once twice, then after 10, 20, 40, 80, 160 and 320 ms.
    expect(polls.count).toBe(8)
    await clock.advance(10_000)
    expect(polls.count).toBe(18)
    await bus.stop()
  })

  test('goes on at once after a full batch', async () => {
    const { bus, storage } = still({ batchSize: 10, poll: { min: '1h', max: '1h' } })
    let handled = 0
    bus.on('a', () => void handled++)
    await bus.emitMany(Array.from({ length: 95 }, () => ({ type: 'a', payload: {} })))
    await bus.start()
    for (let turn = 0; turn < 1_000 && handled < 95; turn++)
      await new Promise((resolve) => setImmediate(resolve))
    await bus.stop()
    expect([handled, storage.events.size]).toEqual([95, 0])
  })
})

test('a slip is found for resuming behind more dead letters than a page holds', async () => {
  const { clock, outbox, bus } = still()
  const step = activity('step', { execute: () => {} })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step] })
  const broken = Array.from({ length: 1_001 }, () => ({ type: engine.stepType, payload: null }))
  await bus.emitMany(broken)
  await bus.start()
  await until(async () => {
    await clock.advance(10)
    return (await outbox.stats()).dead === broken.length
  })
  await bus.stop()
  await engine.emit(routingSlip('test', 's1').add(step, {}))
  const [late] = await takeDue(outbox.storage, 10, 60_000)
  const { id = '', attempt = 0 } = late ?? {}
  const settle = { kind: 'bury', id, attempt, error: 'unknown' } as const
  await outbox.storage.write([{ settle, append: [], put: [], remove: [] }])
  expect(await outbox.stats()).toMatchObject({ dead: 1_002 })
  expect(await engine.resume('s1')).toBe(true)
  expect(await outbox.stats()).toMatchObject({ due: 1, dead: 1_001 })
})

test('a slip’s start is kept for the bus’s retention where that is longer than its time to live', async () => {
  const { clock, outbox, bus, storage } = still({ retention: '30d' })
  const step = activity('step', { execute: () => {} })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step] })
  await engine.emit(routingSlip('test', 's1').add(step, {}))
  await bus.start()
  await clock.advance(1_000)
  await bus.stop()
  const [start] = storage.events.values()
  expect(start?.state).toBe('done')
  expect(start?.visibleAt).toBeGreaterThan(clock.now() + 29 * 24 * 3_600_000)
})
