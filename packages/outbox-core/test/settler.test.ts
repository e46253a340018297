import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Attempt } from '../src/delivering/attempt.ts'
import { dispatcherSettings } from '../src/delivering/bus-options.ts'
import { buried } from '../src/delivering/outcomes.ts'
import { Settler } from '../src/delivering/settler.ts'
import type { OutboxCore } from '../src/emitting/outbox-core.ts'
import { InMemoryOutbox, type Outcome, StorageError } from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import { coreOf } from '../src/outbox.ts'
import { outage, refusal } from '../src/testing/failing.ts'
import { appending, newEvent } from '../src/testing/harness.ts'
import { ManualClock, recordingLogger, takeDue } from '../src/testing/index.ts'

interface Call {
  readonly ids: readonly string[]
  /** From 1. */
  readonly number: number
  /** Whether it is about completions, not about burials. */
  readonly completes: boolean
}

type Failure = (call: Call) => Promise<unknown> | undefined

/** A settler over leased events `0`, `1`, …, and a database that fails as it is told. */
async function settling(count: number, failure: Failure) {
  const clock = new ManualClock()
  const logger = recordingLogger()
  const outbox = new InMemoryOutbox({ clock, logger })
  const storage = outbox.storage as InMemoryStorage
  await storage.write([appending(...Array.from({ length: count }, (_, n) => newEvent({ id: `${n}` })))])
  const leased = await takeDue(storage, count, 3_600_000)
  const { write } = storage
  const writes: (readonly string[])[] = []
  storage.write = async (outcomes: readonly Outcome[], tx) => {
    const ids = outcomes.map(({ settle }) => settle?.id ?? '')
    writes.push(ids)
    const completes = outcomes.some(({ settle }) => settle?.kind === 'complete')
    await failure({ ids, number: writes.length, completes })
    return write.call(storage, outcomes, tx)
  }
  const settings = dispatcherSettings({ lease: '30s', batchSize: 400 }, storage)
  const settled: string[] = []
  const settler = new Settler(coreOf(outbox) as OutboxCore, settings, {
    buried: async (attempt, error) => buried(attempt, error),
    settled: ({ attempt }, { status }) => void settled.push(`${attempt.id} ${status}`),
    roomMade: () => {},
  })
  const add = (...ids: number[]): void => {
    for (const n of ids) {
      const attempt = new Attempt(leased[n] as (typeof leased)[0], logger, clock.elapsed(), 0)
      const settle = { kind: 'complete', id: attempt.id, attempt: 1, keepMs: 0 } as const
      settler.add({ attempt, outcome: { settle, append: [], put: [], remove: [] } })
    }
  }
  const errors = (): string[] =>
    logger.lines.filter(({ level }) => level === 'error').map(({ message }) => message)
  return { clock, logger, storage, writes, settled, settler, settings, add, errors, answered: setImmediate }
}

const all = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
const never = (): Promise<never> => new Promise(() => {})

test('one that is refused among 400 is found by halves, and buried; the others are written', async () => {
  const { clock, storage, writes, settled, settler, add } = await settling(
    400,
    async ({ ids, completes }) => {
      if (completes && ids.includes('123')) throw refusal()
    },
  )
  add(...all(400))
  await clock.advance(0)
  await settler.drained()
  expect(settled.toSorted()).toEqual(
    all(400)
      .map((n) => `${n} applied`)
      .toSorted(),
  )
  expect([...storage.events.keys()]).toEqual(['123'])
  expect(storage.events.get('123')).toMatchObject({
    state: 'dead',
    error: expect.stringContaining('refused'),
  })
  // The whole, then two halves at each of nine levels at most, then the burial.
  expect(writes.length).toBeLessThanOrEqual(20)
  expect(clock.now()).toBe(Date.UTC(2026, 0, 1))
})

test('one whose write fails for a passing reason is set aside, and holds up nobody', async () => {
  let away = true
  const { clock, writes, settled, settler, add, errors } = await settling(8, async ({ ids }) => {
    if (away && ids.includes('3')) throw outage()
  })
  add(...all(6))
  await clock.advance(2_000)
  expect(settled.toSorted()).toEqual([0, 1, 2, 4, 5].map((n) => `${n} applied`))
  expect(settler.aside).toBe(1)
  add(6, 7)
  await clock.advance(0)
  expect(settled.slice(5)).toEqual(['6 applied', '7 applied'])
  // It is asked for ever more rarely, and not too rarely.
  const before = writes.length
  await clock.advance(60_000)
  expect(writes.length - before).toBeGreaterThanOrEqual(10)
  expect(writes.length - before).toBeLessThanOrEqual(20)
  away = false
  await clock.advance(5_000)
  expect(settled.slice(7)).toEqual(['3 applied'])
  expect([settler.aside, errors()]).toEqual([0, []])
})

test('a database that is away is asked with a backoff, and gets everything once it is back', async () => {
  let away = true
  const { clock, writes, settled, settler, storage, add } = await settling(100, async () => {
    if (away) throw outage()
  })
  add(...all(100))
  await clock.advance(30_000)
  expect(settled).toEqual([])
  // Each of the parts, into which it is split, has a pause of its own.
  expect(writes.length).toBeLessThan(2_000)
  away = false
  await clock.advance(5_000)
  await settler.drained()
  expect(settled).toHaveLength(100)
  expect(storage.events.size).toBe(0)
})

test('what the database fails with, without saying whether it passes, is believed three times', async () => {
  const { clock, storage, writes, settled, settler, add } = await settling(1, async ({ completes }) => {
    if (completes) throw new StorageError('something odd', { transient: false })
  })
  add(0)
  await clock.advance(1_000)
  await settler.drained()
  expect(settled).toEqual(['0 applied'])
  expect(writes).toHaveLength(4)
  expect(storage.events.get('0')).toMatchObject({
    state: 'dead',
    error: expect.stringContaining('something odd'),
  })
})

test('what is refused whatever is tried is given up, and told once', async () => {
  const { clock, storage, settled, settler, add, errors } = await settling(2, async ({ ids }) => {
    if (ids.includes('1')) throw refusal()
  })
  add(...all(2))
  await clock.advance(0)
  await settler.drained()
  expect(settled.toSorted()).toEqual(['0 applied', '1 lost'])
  expect(storage.events.get('1')).toMatchObject({ state: 'leased', attempt: 1 })
  expect(errors().filter((message) => message.includes('given up'))).toHaveLength(1)
})

test('a write that is not answered holds up the next one for a moment, and is repeated', async () => {
  const { clock, writes, settled, settler, settings, add } = await settling(4, ({ number }) =>
    number === 1 ? never() : undefined,
  )
  add(0, 1)
  await clock.advance(0)
  add(2)
  await clock.advance(settings.softDeadlineMs - 1)
  expect(settled).toEqual([])
  await clock.advance(1)
  await clock.advance(0)
  expect(settled).toEqual(['2 applied'])
  expect(settler.aside).toBe(2)
  await clock.advance(settings.hardDeadlineMs + 1_000)
  expect(settled).toEqual(['2 applied', '0 applied', '1 applied'])
  expect(writes).toEqual([['0', '1'], ['2'], ['0', '1']])
  await settler.drained()
})

test('an answer that comes late is understood, before the repetition and after it', async () => {
  for (const after of [false, true]) {
    const hanging = Promise.withResolvers<void>()
    const late = Promise.withResolvers<void>()
    const { clock, writes, settled, settler, settings, storage, add } = await settling(2, ({ number }) =>
      number === 1 ? late.promise : after ? hanging.promise : undefined,
    )
    add(0, 1)
    await clock.advance(after ? settings.hardDeadlineMs + 1_000 : settings.hardDeadlineMs - 1)
    expect([settled, writes.length]).toEqual([[], after ? 2 : 1])
    late.resolve()
    await clock.advance(0)
    expect(settled).toEqual(['0 applied', '1 applied'])
    await settler.drained()
    hanging.resolve()
    await clock.advance(60_000)
    expect(settled).toHaveLength(2)
    expect(storage.events.size).toBe(0)
  }
})

test('a failure that comes late is no news: it is being repeated', async () => {
  const late = Promise.withResolvers<void>()
  const { clock, writes, settled, settings, add } = await settling(1, ({ number }) => {
    if (number === 1) return late.promise
    return number === 2 ? never() : undefined
  })
  add(0)
  await clock.advance(settings.hardDeadlineMs + 1_000)
  late.reject(refusal())
  await clock.advance(settings.hardDeadlineMs - 2_000)
  expect([writes.length, settled]).toEqual([2, []])
  // Its repetition is not answered either, and waits twice as long.
  await clock.advance(2 * settings.hardDeadlineMs)
  expect(settled).toEqual(['0 applied'])
})

test('a half that is not answered does not hold up the other one', async () => {
  const { clock, settled, settings, add } = await settling(4, ({ ids, number }) => {
    if (number === 1) return Promise.reject(refusal())
    return ids.includes('0') && number < 4 ? never() : undefined
  })
  add(...all(4))
  await clock.advance(settings.hardDeadlineMs - 1)
  expect(settled).toEqual(['2 applied', '3 applied'])
  await clock.advance(60_000)
  expect(settled.toSorted()).toEqual(all(4).map((n) => `${n} applied`))
})

test('what can’t be written for ten leases is given up', async () => {
  const { clock, settled, settler, settings, add, errors } = await settling(2, async ({ ids }) => {
    if (ids.includes('1')) throw outage()
  })
  add(...all(2))
  let drained = false
  void settler.drained().then(() => {
    drained = true
  })
  expect(settings.asideMs).toBe(300_000)
  await clock.advance(settings.asideMs - 1)
  expect([settled, drained]).toEqual([['0 applied'], false])
  await clock.advance(6_000)
  expect([settled, drained]).toEqual([['0 applied', '1 lost'], true])
  expect(errors()).toEqual(['settling given up; the lease will run out'])
})

test('what is never answered is given up, too', async () => {
  const { clock, settled, settler, settings, add } = await settling(1, never)
  add(0)
  await clock.advance(settings.asideMs + settings.hardDeadlineMs + 10_000)
  expect(settled).toEqual(['0 lost'])
  await settler.drained()
})

test('abandoned, it repeats nothing any more', async () => {
  const { clock, writes, settled, settler, add } = await settling(3, async () => {
    throw outage()
  })
  add(0, 1)
  await clock.advance(100)
  const before = writes.length
  settler.abandon()
  await clock.advance(0)
  expect(settled.toSorted()).toEqual(['0 lost', '1 lost'])
  add(2)
  await clock.advance(60_000)
  expect(settled.slice(2)).toEqual(['2 lost'])
  expect(writes.length).toBeLessThanOrEqual(before + 1)
  await settler.drained()
})

test('is drained at once when there is nothing, and only when all is settled', async () => {
  let away = true
  const { clock, settler, add } = await settling(2, async ({ ids }) => {
    if (away && ids.includes('0')) throw outage()
  })
  await settler.drained()
  add(...all(2))
  let drained = 0
  void settler.drained().then(() => drained++)
  await clock.advance(1_000)
  expect(drained).toBe(0)
  away = false
  await clock.advance(5_000)
  expect(drained).toBe(1)
})
