import { validate, version } from 'uuid'
import { expect, test, vi } from 'vitest'
import { newId } from '../src/ids.ts'

test('ids are UUIDs of version 7, each greater than the one before, also when the clock goes back', () => {
  const now = vi.spyOn(Date, 'now')
  const ids: string[] = []
  try {
    for (const ms of [1_700_000_000_000, 1_700_000_000_001, 1_600_000_000_000]) {
      now.mockReturnValue(ms)
      for (let count = 0; count < 20_000; count++) ids.push(newId())
    }
  } finally {
    now.mockRestore()
  }
  expect(new Set(ids).size).toBe(ids.length)
  expect(ids.toSorted()).toEqual(ids)
  expect(ids.every((id) => validate(id) && version(id) === 7)).toBe(true)
})

test('ids differ in their random part', () => {
  const tails = Array.from({ length: 10_000 }, () => newId().slice(-12))
  expect(new Set(tails).size).toBe(tails.length)
})
