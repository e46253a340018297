import { expect, test } from 'vitest'
import { type BusOptions, InMemoryOutbox, OutboxEventBus } from '../src/index.ts'
import { ManualClock } from '../src/testing/index.ts'

/** Workers whose handlers take so long each, and how many events each of them has handled. */
function workers(count: number, handlerMs: number, options: BusOptions) {
  const clock = new ManualClock()
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const handled = Array.from({ length: count }, () => 0)
  const running = handled.map(() => 0)
  const most = handled.map(() => 0)
  const buses = handled.map((_, worker) => {
    const bus = new OutboxEventBus(outbox, options)
    bus.on('slow', async () => {
      const now = (running[worker] ?? 0) + 1
      running[worker] = now
      most[worker] = Math.max(most[worker] ?? 0, now)
      await new Promise<void>((resolve) => void clock.after(handlerMs, resolve))
      running[worker] = (running[worker] ?? 0) - 1
      handled[worker] = (handled[worker] ?? 0) + 1
    })
    return bus
  })
  const emit = (events: number): Promise<unknown> =>
    new OutboxEventBus(outbox).emitMany(
      Array.from({ length: events }, (_, n) => ({ type: 'slow', payload: n })),
    )
  const start = (): Promise<unknown> => Promise.all(buses.map((bus) => bus.start()))
  const stop = (): Promise<unknown> => Promise.all(buses.map((bus) => bus.stop()))
  return { clock, outbox, handled, most, emit, start, stop }
}

test.each(['before', 'after'] as const)(
  'two workers share slow events that were emitted %s they started',
  async (when) => {
    const { clock, handled, emit, start, stop } = workers(2, 200, { concurrency: 1 })
    if (when === 'before') await emit(40)
    await start()
    if (when === 'after') await emit(40)
    await clock.advance(9_000)
    expect(handled.reduce((sum, count) => sum + count, 0)).toBe(40)
    for (const count of handled) expect(count).toBeGreaterThanOrEqual(10)
    await stop()
  },
)

test('a worker that comes later takes its share of what others can’t begin', async () => {
  const { clock, outbox, handled, emit, start, stop } = workers(1, 5_000, { concurrency: 1 })
  await emit(12)
  await start()
  await clock.advance(1_000)
  const other = new OutboxEventBus(outbox, { concurrency: 1 })
  let taken = 0
  other.on('slow', async () => {
    await new Promise<void>((resolve) => void clock.after(5_000, resolve))
    taken++
  })
  await other.start()
  await clock.advance(45_000)
  expect((handled[0] ?? 0) + taken).toBe(12)
  expect(taken).toBeGreaterThanOrEqual(3)
  await Promise.all([stop(), other.stop()])
})

test.each([
  [20, 1],
  [20, 5],
  [50, 7],
  [3, 400],
])('%i handlers run at the same time, with batches of %i', async (concurrency, batchSize) => {
  const { clock, outbox, most, emit, start, stop } = workers(1, 1_000, { concurrency, batchSize })
  await emit(200)
  await start()
  await clock.advance(500)
  expect(most).toEqual([concurrency])
  await clock.advance(200_000)
  expect(most).toEqual([concurrency])
  await stop()
  expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0 })
})

test('handlers that end one by one are followed by others at once', async () => {
  const { clock, handled, emit, start, stop } = workers(1, 100, { concurrency: 4, batchSize: 2 })
  await emit(100)
  await start()
  await clock.advance(2_700)
  expect(handled).toEqual([100])
  await stop()
})
