import { describe, expect, test } from 'vitest'
import { ConfigurationError, InMemoryOutbox, OutboxEventBus } from '../src/index.ts'
import { ManualClock } from '../src/testing/index.ts'

const HOUR = 3_600_000

describe('ManualClock', () => {
  test('stands still until it is advanced', async () => {
    const clock = new ManualClock(1_000)
    expect(clock.now()).toBe(1_000)
    await clock.advance(250)
    expect(clock.now()).toBe(1_250)
    await clock.advance(0)
    expect(clock.now()).toBe(1_250)
  })

  test('fires timers in order of their time, then of their setting, each at its own moment', async () => {
    const clock = new ManualClock(0)
    const fired: [string, number][] = []
    const set = (name: string, ms: number) => clock.after(ms, () => fired.push([name, clock.now()]))
    set('late', 30)
    set('first of two', 20)
    set('second of two', 20)
    set('early', 10)
    set('not yet', 31)
    await clock.advance(30)
    expect(fired).toEqual([
      ['early', 10],
      ['first of two', 20],
      ['second of two', 20],
      ['late', 30],
    ])
    await clock.advance(1)
    expect(fired.at(-1)).toEqual(['not yet', 31])
    expect(fired).toHaveLength(5)
  })

  test('calls nothing at once, and nothing that was cancelled', async () => {
    const clock = new ManualClock()
    const fired: string[] = []
    clock.after(0, () => fired.push('now'))
    clock.after(-5, () => fired.push('overdue'))
    const cancel = clock.after(1, () => fired.push('cancelled'))
    cancel()
    cancel()
    expect(fired).toEqual([])
    await clock.advance(0)
    expect(fired).toEqual(['now', 'overdue'])
    await clock.advance(10)
    expect(fired).toEqual(['now', 'overdue'])
  })

  test('a timer can cancel one that is due at the same moment', async () => {
    const clock = new ManualClock()
    let cancel = (): void => {}
    const fired: string[] = []
    clock.after(5, () => cancel())
    cancel = clock.after(5, () => fired.push('cancelled'))
    await clock.advance(5)
    expect(fired).toEqual([])
  })

  test('lets promise work settle before, between and after timers, and fires what it sets', async () => {
    const clock = new ManualClock(0)
    const log: string[] = []
    const wait = (ms: number) => new Promise<void>((resolve) => void clock.after(ms, resolve))
    const work = async (name: string): Promise<void> => {
      for (let turn = 0; turn < 50; turn++) await null
      await wait(10)
      for (let turn = 0; turn < 50; turn++) await null
      log.push(`${name} at ${clock.now()}`)
    }
    const chain = work('one').then(() => work('two'))
    await clock.advance(25)
    expect(log).toEqual(['one at 10', 'two at 20'])
    await chain
  })

  test('runs overlapping calls one after another', async () => {
    const clock = new ManualClock(0)
    const fired: number[] = []
    for (const ms of [10, 20, 30]) clock.after(ms, () => fired.push(clock.now()))
    await Promise.all([clock.advance(15), clock.advance(15)])
    expect(fired).toEqual([10, 20, 30])
    expect(clock.now()).toBe(30)
  })

  test.each([-1, Number.NaN, Number.POSITIVE_INFINITY])('is not advanced by %s', async (ms) => {
    const clock = new ManualClock(0)
    await expect(clock.advance(ms)).rejects.toThrow(ConfigurationError)
    expect(clock.now()).toBe(0)
  })

  test('fails with what a timer threw, and goes on afterwards', async () => {
    const clock = new ManualClock(0)
    const fired: string[] = []
    clock.after(5, () => {
      throw new Error('from the timer')
    })
    clock.after(6, () => fired.push('the next one'))
    await expect(clock.advance(10)).rejects.toThrow('from the timer')
    expect(clock.now()).toBe(5)
    await clock.advance(5)
    expect(fired).toEqual(['the next one'])
  })

  test('takes a bus through hours of retries in no time', async () => {
    const clock = new ManualClock()
    const startedAt = clock.now()
    const outbox = new InMemoryOutbox({ clock, logger: false })
    const bus = new OutboxEventBus(outbox, { retry: { delay: HOUR, maxDelay: 2 * HOUR, jitter: 0 } })
    const attempts: number[] = []
    bus.on('order.placed', async () => {
      attempts.push((clock.now() - startedAt) / HOUR)
      if (attempts.length < 4) throw new Error('not yet')
    })
    await bus.start()
    await bus.emit('order.placed', {})
    await clock.advance(6 * HOUR)
    expect(attempts.map(Math.floor)).toEqual([0, 1, 3, 5])
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0 })
    const stopped = bus.stop()
    await clock.advance(HOUR)
    await stopped
  })
})
