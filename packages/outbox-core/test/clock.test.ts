import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../src/clock.ts'

const LONGEST_TIMER_MS = 2 ** 31 - 1
const DAY_MS = 86_400_000
const START = Date.UTC(2026, 0, 1)

describe('the system clock', () => {
  beforeEach(() => {
    vi.useFakeTimers({ now: START })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  /** When callbacks are called, in milliseconds from now. */
  function recorder(): { readonly calls: number[]; readonly note: () => void } {
    const calls: number[] = []
    return { calls, note: () => calls.push(Date.now() - START) }
  }

  test('goes with fake timers that are set after it was loaded', () => {
    const elapsed = systemClock.elapsed()
    expect(systemClock.now()).toBe(START)
    vi.advanceTimersByTime(1_234)
    expect(systemClock.now()).toBe(START + 1_234)
    expect(systemClock.elapsed() - elapsed).toBeCloseTo(1_234, 3)
  })

  test.each([
    1,
    1_000,
    LONGEST_TIMER_MS - 1,
    LONGEST_TIMER_MS,
    LONGEST_TIMER_MS + 1,
    2 * LONGEST_TIMER_MS,
    2 * LONGEST_TIMER_MS + 1,
    365 * DAY_MS,
  ])('waits for %d ms, once', (ms) => {
    const { calls, note } = recorder()
    systemClock.after(ms, note)
    vi.advanceTimersByTime(ms - 1)
    expect(calls).toEqual([])
    vi.advanceTimersByTime(1)
    expect(calls).toEqual([ms])
    vi.advanceTimersByTime(3 * LONGEST_TIMER_MS)
    expect(calls).toEqual([ms])
    expect(vi.getTimerCount()).toBe(0)
  })

  test.each([0, -0, -1, -LONGEST_TIMER_MS - 2, Number.NaN, Number.NEGATIVE_INFINITY])(
    'waits for %s ms: not at all, but lets its caller return',
    (ms) => {
      const { calls, note } = recorder()
      systemClock.after(ms, note)
      expect(calls).toEqual([])
      vi.advanceTimersByTime(1)
      expect(calls).toHaveLength(1)
      expect(vi.getTimerCount()).toBe(0)
    },
  )

  test('waits for ever where it is told to', () => {
    const { calls, note } = recorder()
    const cancel = systemClock.after(Number.POSITIVE_INFINITY, note)
    vi.advanceTimersByTime(10 * LONGEST_TIMER_MS)
    expect(calls).toEqual([])
    expect(vi.getTimerCount()).toBe(1)
    cancel()
    expect(vi.getTimerCount()).toBe(0)
  })

  test.each([0, 1, LONGEST_TIMER_MS, LONGEST_TIMER_MS + 1, 2 * LONGEST_TIMER_MS + 5])(
    'a wait is cancelled after %d ms of it',
    (passed) => {
      const { calls, note } = recorder()
      const cancel = systemClock.after(3 * LONGEST_TIMER_MS, note)
      vi.advanceTimersByTime(passed)
      cancel()
      expect(vi.getTimerCount()).toBe(0)
      cancel()
      vi.advanceTimersByTime(4 * LONGEST_TIMER_MS)
      expect(calls).toEqual([])
    },
  )

  test('cancelling what has been called cancels nothing else', () => {
    const { calls, note } = recorder()
    const cancel = systemClock.after(LONGEST_TIMER_MS + 1, note)
    vi.advanceTimersByTime(LONGEST_TIMER_MS + 1)
    systemClock.after(5, note)
    cancel()
    vi.advanceTimersByTime(5)
    expect(calls).toEqual([LONGEST_TIMER_MS + 1, LONGEST_TIMER_MS + 6])
  })
})

test('Node has nothing to warn of', async () => {
  const warnings: string[] = []
  const note = ({ name }: Error): void => void warnings.push(name)
  process.on('warning', note)
  for (const ms of [Number.NaN, -1, Number.NEGATIVE_INFINITY, LONGEST_TIMER_MS + 1]) {
    const cancel = systemClock.after(ms, () => {})
    await new Promise((resolve) => setImmediate(resolve))
    cancel()
  }
  process.off('warning', note)
  expect(warnings).toEqual([])
})
