import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type BusOptions, InMemoryOutbox, LeaseLostError, OutboxEventBus } from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import { ManualClock } from '../src/testing/index.ts'

/** A bus whose heartbeats are answered as told; what runs, and when it was asked for an extension. */
async function beating(
  answer: (beat: number) => Promise<readonly string[]> | undefined,
  options: BusOptions = {},
) {
  const clock = new ManualClock()
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const storage = outbox.storage as InMemoryStorage
  const bus = new OutboxEventBus(outbox, { lease: '30s', heartbeat: '10s', ...options })
  const begun = clock.now()
  const beats: number[] = []
  const { extend } = storage
  storage.extend = (leases, leaseMs) => {
    beats.push(clock.now() - begun)
    return answer(beats.length) ?? extend.call(storage, leases, leaseMs)
  }
  const signals: AbortSignal[] = []
  /** How many earlier attempts were still running when each one began. */
  const beside: number[] = []
  const done = Promise.withResolvers<void>()
  bus.on('long', async (_, { signal }) => {
    beside.push(signals.filter(({ aborted }) => !aborted).length)
    signals.push(signal)
    await done.promise
  })
  await bus.emit('long', {})
  await bus.start()
  const end = async (): Promise<void> => {
    done.resolve()
    await setImmediate()
    const stopped = bus.stop()
    await clock.advance(30_000)
    await stopped
  }
  return { clock, outbox, bus, storage, beats, signals, beside, end }
}

const never = (): Promise<never> => new Promise(() => {})

describe('a heartbeat', () => {
  test('that fails is made up for sooner', async () => {
    const { clock, beats, signals, end } = await beating((beat) =>
      beat === 1 ? Promise.reject(new Error('away')) : undefined,
    )
    await clock.advance(25_000)
    expect(beats).toEqual([10_000, 11_250, 21_250])
    await clock.advance(60_000)
    expect(signals.map(({ aborted }) => aborted)).toEqual([false])
    await end()
  })

  test('that is not answered is made up for sooner, and the lease is kept', async () => {
    const { clock, beats, signals, storage, end } = await beating((beat) =>
      beat === 1 ? never() : undefined,
    )
    await clock.advance(28_000)
    expect(beats).toEqual([10_000, 16_250, 26_250])
    await clock.advance(120_000)
    expect(signals.map(({ aborted }) => aborted)).toEqual([false])
    await end()
    expect(storage.events.size).toBe(0)
  })

  test('that is answered late is understood: whose lease is gone is told', async () => {
    const late = Promise.withResolvers<readonly string[]>()
    const { clock, storage, signals, end } = await beating((beat) => (beat === 1 ? late.promise : never()))
    await clock.advance(16_000)
    expect(signals.map(({ aborted }) => aborted)).toEqual([false])
    late.resolve([...storage.events.keys()])
    await setImmediate()
    expect(signals[0]?.reason).toBeInstanceOf(LeaseLostError)
    await end()
  })

  test('that is never answered lets no event run twice at once in one worker', async () => {
    const { clock, beside, signals, end } = await beating(never)
    await clock.advance(150_000)
    expect(signals.length).toBeGreaterThanOrEqual(4)
    expect(beside).toEqual(signals.map(() => 0))
    expect(signals.map(({ aborted }) => aborted)).toEqual(signals.map((_, n) => n < signals.length - 1))
    await end()
  })

  test('gives back what could not be begun meanwhile, uncounted, and keeps what runs', async () => {
    const { clock, bus, outbox, storage, end } = await beating(() => undefined, { concurrency: 1 })
    const handled: unknown[] = []
    bus.on('short', ({ payload }, { attempt }) => void handled.push([payload, attempt]))
    await bus.emitMany([1, 2].map((payload) => ({ type: 'short', payload })))
    await clock.advance(1_000)
    expect(await outbox.stats()).toMatchObject({ leased: 3, due: 0 })
    const { lease } = storage
    storage.lease = async () => []
    await clock.advance(20_500)
    expect(await outbox.stats()).toMatchObject({ leased: 1, due: 2 })
    const states = [...storage.events.values()].map(({ attempt, uncounted }) => attempt - uncounted)
    expect(states).toEqual([1, 0, 0])
    storage.lease = lease
    await end()
    await bus.start()
    await clock.advance(1_000)
    await bus.stop()
    expect(handled).toEqual([
      [1, 1],
      [2, 1],
    ])
  })
})
