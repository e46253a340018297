import { expect, test } from 'vitest'
import {
  type BusOptions,
  type Clock,
  claimCheck,
  InMemoryOutbox,
  OutboxEventBus,
  systemClock,
} from '../src/index.ts'
import { appending, newEvent } from '../src/testing/harness.ts'
import { ManualClock, recordingLogger, sleep, until } from '../src/testing/index.ts'

/** How many events each lease asks for until all are handled. */
async function leases(
  count: number,
  options: { bytes?: number; busyMs?: number; clock?: Clock } & Pick<BusOptions, 'batchSize' | 'concurrency'>,
): Promise<readonly number[]> {
  const { bytes = 10, busyMs = 0, clock = systemClock, ...busOptions } = options
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const bus = new OutboxEventBus(outbox, { poll: { max: 10 }, ...busOptions })
  const payload = 'x'.repeat(bytes)
  await bus.emitMany(Array.from({ length: count }, () => ({ type: 'test', payload })))
  const limits: number[] = []
  const { lease } = outbox.storage
  outbox.storage.lease = (request) => {
    limits.push(request.limit)
    return lease.call(outbox.storage, request)
  }
  let handled = 0
  bus.on('test', async () => {
    if (busyMs > 0) await sleep(busyMs)
    handled++
  })
  await bus.start()
  await until(() => handled === count)
  await bus.stop()
  return limits
}

test('takes more at once while batches are done quickly', async () => {
  // However busy the machine is, by this clock no time passes.
  const limits = await leases(4_000, { clock: { ...systemClock, elapsed: () => 0 } })
  expect([...new Set(limits)]).toEqual([20, 40, 80, 160, 320, 400])
})

test('never takes more than it was told to', async () => {
  expect(Math.max(...(await leases(200, { batchSize: 30 })))).toBe(30)
})

test('takes fewer while handlers are slow, but enough to keep all of them busy', async () => {
  const limits = await leases(600, { concurrency: 20, busyMs: 60 })
  expect(Math.max(...limits)).toBeLessThanOrEqual(160)
  expect(Math.min(...limits)).toBe(20)
})

test('takes fewer while events are large', async () => {
  const limits = await leases(400, { bytes: 100_000, clock: { ...systemClock, elapsed: () => 0 } })
  const most = Math.max(...limits)
  expect(most).toBeLessThanOrEqual(160)
  expect(limits.slice(limits.indexOf(most)).some((limit) => limit < most)).toBe(true)
})

test('stop ends even when the database no longer answers, and lets the leases run out', async () => {
  const clock = new ManualClock()
  const logger = recordingLogger()
  const outbox = new InMemoryOutbox({ clock, logger })
  const bus = new OutboxEventBus(outbox)
  let handled = 0
  bus.on('test', () => void handled++)
  await bus.emit('test', 1)
  await bus.start()
  const unanswered = (): Promise<never> => new Promise(() => {})
  let heartbeats = 0
  Object.assign(outbox.storage, {
    lease: unanswered,
    write: unanswered,
    extend: () => {
      heartbeats++
      return Promise.resolve([])
    },
  })
  await until(() => handled === 1)
  await clock.advance(60_000)
  const stopped = bus.stop({ timeout: 1_000 })
  await clock.advance(10_000)
  await stopped
  expect(logger.lines).toContainEqual(
    expect.objectContaining({
      level: 'error',
      fields: { held: 1 },
      message: expect.stringContaining('does not answer'),
    }),
  )
  const before = heartbeats
  expect(before).toBeGreaterThan(0)
  await clock.advance(60_000)
  expect(heartbeats).toBe(before)
})

test('polls where it can’t listen to other processes, and says so', async () => {
  const logger = recordingLogger()
  const outbox = new InMemoryOutbox({ logger })
  Object.assign(outbox.storage, { listen: () => Promise.reject(new Error('no channel')) })
  const bus = new OutboxEventBus(outbox)
  bus.on('test', () => {})
  await bus.start()
  await Promise.all([bus.emit('test', 1), bus.waitFor('test')])
  await bus.stop()
  expect(logger.lines).toContainEqual(
    expect.objectContaining({ level: 'warn', message: expect.stringContaining('polling finds') }),
  )
})

test('goes on when the machine’s clock is set back', async () => {
  let offset = 0
  const clock: Clock = { ...systemClock, now: () => Date.now() + offset }
  const outbox = new InMemoryOutbox({ logger: false, clock })
  const bus = new OutboxEventBus(outbox, { lease: 200, heartbeat: 20, poll: { max: 50 } })
  let running = 0
  bus.on('test', async () => {
    running++
    await sleep(400)
  })
  await bus.start()
  await bus.emit('test', 1)
  await until(() => running === 1)
  offset = -600_000
  let extended = 0
  const { extend } = outbox.storage
  outbox.storage.extend = (leases, leaseMs) => {
    extended += leases.length
    return extend.call(outbox.storage, leases, leaseMs)
  }
  // Past the outbox, so that nothing but the poll can find it.
  await outbox.storage.write([appending(newEvent({ type: 'test' }))])
  await until(() => running === 2, 2_000)
  await bus.stop()
  expect(extended).toBeGreaterThan(0)
})

test('settles large outcomes in several writes', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const store = outbox.sagaStore('1d', { compression: 'none' })
  const bus = new OutboxEventBus<{ start: number; large: string }>(outbox).use(claimCheck(store))
  bus.on('start', async (_, { emit }) => void (await emit('large', 'x'.repeat(5_000_000))))
  const puts: number[] = []
  const { write } = outbox.storage
  outbox.storage.write = (outcomes, tx) => {
    puts.push(outcomes.flatMap(({ put }) => put).length)
    return write.call(outbox.storage, outcomes, tx)
  }
  await bus.emitMany(Array.from({ length: 10 }, (_, n) => ({ type: 'start', payload: n })))
  await bus.start()
  await until(async () => (await outbox.stats()).dead + puts.reduce((sum, count) => sum + count, 0) >= 10)
  await bus.stop()
  expect(puts.reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(10)
  expect(Math.max(...puts)).toBeLessThanOrEqual(3)
})

test('a worker that asks what there is goes on when that is not answered', async () => {
  const outbox = new InMemoryOutbox({ logger: false })
  const { waiting } = outbox.storage
  let unanswered = 2
  outbox.storage.waiting = () => (unanswered-- > 0 ? new Promise(() => {}) : waiting.call(outbox.storage))
  const bus = new OutboxEventBus(outbox, { lease: 300, poll: { max: 10 } })
  let handled = 0
  bus.on('*', () => void handled++)
  await bus.emit('test', 1)
  await bus.start()
  await until(() => handled === 1)
  await bus.stop()
})
