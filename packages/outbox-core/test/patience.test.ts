import { describe, expect, test } from 'vitest'
import { Patience } from '../src/delivering/patience.ts'
import { ManualClock } from '../src/testing/index.ts'

const MINUTE_MS = 60_000
const DAY_MS = 24 * 60 * MINUTE_MS

describe('patience', () => {
  test('ends when an event is old enough and has been known for ten minutes', async () => {
    const clock = new ManualClock()
    const patience = new Patience(clock, DAY_MS)
    expect(patience.isOver('old', 30 * DAY_MS)).toBe(false)
    patience.meet('old')
    patience.meet('young')
    await clock.advance(10 * MINUTE_MS - 1)
    expect(patience.isOver('old', 30 * DAY_MS)).toBe(false)
    await clock.advance(1)
    expect(patience.isOver('old', 30 * DAY_MS)).toBe(true)
    expect(patience.isOver('young', DAY_MS - 1)).toBe(false)
    expect(patience.isOver('young', DAY_MS)).toBe(true)
    // Another process has to have its ten minutes, too.
    expect(patience.isOver('stranger', 30 * DAY_MS)).toBe(false)
  })

  test('that is shorter than ten minutes needs no longer acquaintance than itself', async () => {
    const clock = new ManualClock()
    const patience = new Patience(clock, 300)
    patience.meet('a')
    await clock.advance(299)
    expect(patience.isOver('a', DAY_MS)).toBe(false)
    await clock.advance(1)
    expect(patience.isOver('a', DAY_MS)).toBe(true)
  })

  test('begins anew for an event that is revived after it was buried', async () => {
    const clock = new ManualClock()
    const patience = new Patience(clock, DAY_MS)
    expect(patience.meet('a')).toBe(true)
    expect(patience.meet('a')).toBe(false)
    await clock.advance(DAY_MS)
    expect(patience.isOver('a', DAY_MS)).toBe(true)
    expect(patience.isOver('a', DAY_MS)).toBe(false)
    expect(patience.meet('a')).toBe(true)
    await clock.advance(9 * MINUTE_MS)
    expect(patience.isOver('a', 2 * DAY_MS)).toBe(false)
  })

  test('counts from the first meeting, however often it meets an event again', async () => {
    const clock = new ManualClock()
    const patience = new Patience(clock, DAY_MS)
    for (let minute = 0; minute < 10; minute++) {
      patience.meet('a')
      expect(patience.isOver('a', DAY_MS)).toBe(false)
      await clock.advance(MINUTE_MS)
    }
    expect(patience.isOver('a', DAY_MS)).toBe(true)
  })

  test('remembers so many events and no more, the latest ones', async () => {
    const clock = new ManualClock()
    const patience = new Patience(clock, DAY_MS)
    for (let n = 0; n < 10_000; n++) patience.meet(`${n}`)
    await clock.advance(10 * MINUTE_MS)
    patience.meet('one more')
    expect(patience.isOver('0', DAY_MS)).toBe(false)
    expect(patience.isOver('1', DAY_MS)).toBe(true)
    expect(patience.isOver('9999', DAY_MS)).toBe(true)
    expect(patience.meet('0')).toBe(true)
  })
})
