import { expect, test } from 'vitest'
import { assertKnownSchema, NewerSchemaError } from '../src/index.ts'

test.each([0, 1, 2])('what has schema version %i is used by a process that knows 2', (stored) => {
  expect(() => assertKnownSchema('table "a"', stored, 2)).not.toThrow()
})

test.each([3, 10, Number.NaN])(
  'what has schema version %d is refused by a process that knows 2',
  (stored) => {
    const refused = (): void => assertKnownSchema('table "a"', stored, 2)
    expect(refused).toThrow(NewerSchemaError)
    expect(refused).toThrow(
      `table "a" has schema version ${stored}, and this version of the package knows none after 2;`,
    )
    expect(refused).toThrow(
      expect.objectContaining({ code: 'OUTBOX_NEWER_SCHEMA', blame: 'process', stored, known: 2 }),
    )
  },
)
