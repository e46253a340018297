import { expect, test } from 'vitest'
import { RunLength } from '../src/delivering/run-length.ts'
import type { LeasedEvent, StoredEvent } from '../src/storage.ts'

function event(key: string | null, behind = 0): LeasedEvent {
  const stored: StoredEvent = {
    ...{ id: 'id', type: 'a', address: 'a', key, body: '1', headers: {} },
    ...{ createdAt: 0, attempt: 1, uncounted: 0 },
  }
  return { ...stored, leasedAt: 0, ...(behind > 0 && { behind: Array<StoredEvent>(behind).fill(stored) }) }
}

function learned(length: RunLength, leased: readonly LeasedEvent[]): number {
  length.learn(leased, length.behind)
  return length.behind
}

const times = (count: number, one: LeasedEvent): LeasedEvent[] => Array<LeasedEvent>(count).fill(one)

test('nothing is asked for behind events without keys', () => {
  const length = new RunLength()
  expect(length.behind).toBe(0)
  expect(learned(length, times(100, event(null)))).toBe(0)
})

test('behind all keys together so much is asked for, behind each a little; what brings nothing changes nothing', () => {
  const length = new RunLength()
  expect(learned(length, [event('a')])).toBe(400)
  expect(learned(length, [])).toBe(400)
  expect(learned(length, times(10, event('a', 3)))).toBe(40)
  expect(learned(length, times(100, event('a', 3)))).toBe(7)
  expect(learned(length, [event(null)])).toBe(0)
})

test('of keys that have no more to do it is asked seldom, and again once they have', () => {
  const length = new RunLength()
  expect(learned(length, times(100, event('a')))).toBe(7)
  expect(learned(length, times(100, event('a')))).toBe(0)
  const asked = Array.from({ length: 50 }, () => learned(length, times(100, event('a'))))
  expect(asked.filter((behind) => behind === 7)).toHaveLength(3)
  while (length.behind === 0) learned(length, times(100, event('a')))
  expect(learned(length, times(100, event('a', 1)))).toBe(7)
})
