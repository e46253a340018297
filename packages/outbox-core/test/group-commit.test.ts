import { expect, test } from 'vitest'
import { GroupCommit } from '../src/emitting/group-commit.ts'
import { StorageError, UnknownOutcomeError } from '../src/errors.ts'
import type { Outcome, OutcomeResult } from '../src/storage.ts'
import { appending, newEvent, payload, sleep } from '../src/testing/harness.ts'
import { ManualClock } from '../src/testing/index.ts'

/** A group commit over a database that answers as told, and what it was asked to write. */
function grouping(answer: (ids: readonly string[]) => Promise<void> | void = () => sleep(5)) {
  const writes: string[][] = []
  const clock = new ManualClock()
  const group = new GroupCommit(async (outcomes) => {
    const ids = outcomes.flatMap(({ append, put, remove }) => [
      ...append.map(({ id }) => id),
      ...put.map(({ id }) => id),
      ...remove,
    ])
    writes.push(ids)
    await answer(ids)
    return outcomes.map((): OutcomeResult => ({ status: 'applied' }))
  }, clock)
  const emit = (id: string, changes = {}) => group.write(appending(newEvent({ id, ...changes })))
  return { writes, clock, group, emit }
}

test('whoever comes while a write is under way is part of the next one', async () => {
  const { writes, emit } = grouping()
  await Promise.all(['a', 'b', 'c', 'd'].map((id) => emit(id)))
  expect(writes).toEqual([['a'], ['b', 'c', 'd']])
  await emit('e')
  expect(writes).toEqual([['a'], ['b', 'c', 'd'], ['e']])
})

test('who adds something as soon as its write has ended is part of the next one, too', async () => {
  const { writes, emit } = grouping()
  const often = async (name: string): Promise<void> => {
    for (let round = 0; round < 3; round++) await emit(`${name}${round}`)
  }
  await Promise.all(['a', 'b', 'c'].map(often))
  expect(writes).toEqual([['a0'], ['b0', 'c0', 'a1'], ['b1', 'c1', 'a2'], ['b2', 'c2']])
})

test('a write takes no event and no payload twice, and keeps the order', async () => {
  const { writes, group, emit } = grouping()
  const put: Outcome = { append: [], put: [payload('claim', 'x')], remove: [] }
  const remove: Outcome = { append: [], put: [], remove: ['claim'] }
  await Promise.all([emit('first'), emit('a'), emit('b'), emit('a'), group.write(put), group.write(remove)])
  expect(writes).toEqual([['first'], ['a', 'b'], ['a', 'claim'], ['claim']])
})

test('a group is bounded in number and in size', async () => {
  const { writes, emit } = grouping()
  await Promise.all(Array.from({ length: 1_001 }, (_, number) => emit(`${number}`)))
  expect(writes.map(({ length }) => length)).toEqual([1, 400, 400, 200])
  writes.length = 0
  await sleep(5)
  const body = 'x'.repeat(6 * 1024 * 1024)
  await Promise.all(['a', 'b', 'c', 'd', 'e', 'f'].map((id) => emit(id, { body })))
  expect(writes).toEqual([['a'], ['b', 'c'], ['d', 'e'], ['f']])
})

test('what the database refuses concerns only whom it came from', async () => {
  const refusal = new StorageError('refused', { transient: false, refused: true })
  const { writes, emit } = grouping(async (ids) => {
    await sleep(5)
    if (ids.includes('bad')) throw refusal
  })
  const results = await Promise.allSettled(['a', 'b', 'bad', 'c'].map((id) => emit(id)))
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
  expect(writes).toEqual([['a'], ['b', 'bad', 'c'], ['b'], ['bad'], ['c']])
})

test.each([new StorageError('down', { transient: true }), new UnknownOutcomeError('lost')])(
  'a database that fails fails all of them, once: %s',
  async (failure) => {
    const { writes, emit } = grouping(async () => {
      await sleep(5)
      throw failure
    })
    const results = await Promise.allSettled(['a', 'b', 'c'].map((id) => emit(id)))
    expect(results).toEqual(results.map(() => ({ status: 'rejected', reason: failure })))
    expect(writes).toEqual([['a'], ['b', 'c']])
  },
)

test('a write that hangs does not hold up the others for long', async () => {
  const { writes, clock, emit } = grouping((ids) => (ids[0] === 'hangs' ? new Promise(() => {}) : undefined))
  void emit('hangs')
  const others = Promise.all([emit('a'), emit('b')])
  await sleep(10)
  expect(writes).toEqual([['hangs']])
  await clock.advance(100)
  await others
  await emit('c')
  expect(writes).toEqual([['hangs'], ['a', 'b'], ['c']])
})
