import { expect } from 'vitest'
import type { Book } from './book.ts'
import type { Ground } from './ground.ts'
import type { Course, Told } from './model.ts'

/** Everything that was written and told is what the course says, and nothing is left behind. */
export function assertCourse(book: Book, ground: Ground, { told, transitions, burials }: Course): void {
  expect(book.appended).toEqual(told.map(({ kind }) => kind))
  expect(sorted(book.told.values())).toEqual(sorted(told))
  expect([book.transitions, book.burials]).toEqual([transitions, burials])
  // The start of a slip with an id of its own is kept as completed, so that it can't be started twice.
  expect(ground.events().map(({ id, state }) => [id, state])).toEqual([['saga/slip-1', 'done']])
  expect(ground.payloads()).toEqual([])
}

function sorted(told: Iterable<Told>): readonly Told[] {
  const text = (one: Told): string => JSON.stringify(one)
  return [...told].toSorted((one, other) => text(one).localeCompare(text(other)))
}
