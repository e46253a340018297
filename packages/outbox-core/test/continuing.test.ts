import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import {
  activity,
  type BusOptions,
  InMemoryOutbox,
  OutboxEventBus,
  routingSlip,
  SagaEngine,
  type SagaEvents,
  UnknownOutcomeError,
} from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import { coreOf } from '../src/outbox.ts'
import type { NewEvent } from '../src/storage.ts'
import { appending, newEvent } from '../src/testing/harness.ts'
import { ManualClock, until } from '../src/testing/index.ts'

interface Events {
  first: string
  second: string
  other: string
}

/** A bus whose events of type `first` emit one of type `second`, and what it asks of its storage. */
function watched(options: BusOptions = {}) {
  const clock = new ManualClock()
  const outbox = new InMemoryOutbox({ clock, logger: false })
  const storage = outbox.storage as InMemoryStorage
  const { lease, write } = storage
  const leased: number[] = []
  const appended: NewEvent[] = []
  storage.lease = async (request) => {
    const events = await lease.call(storage, request)
    if (events.length > 0) leased.push(events.length)
    return events
  }
  storage.write = (outcomes, tx) => {
    appended.push(...outcomes.flatMap(({ append }) => append))
    return write.call(storage, outcomes, tx)
  }
  const bus = new OutboxEventBus<Events & SagaEvents>(outbox, options)
  const handled: string[] = []
  const note = ({ payload }: { payload: string }): void => void handled.push(payload)
  const all = (count: number): Promise<void> => until(() => handled.length === count)
  return { clock, outbox, storage, leased, appended, bus, handled, note, all }
}

const leasedTypes = (appended: readonly NewEvent[]): string[] =>
  appended.filter(({ leased }) => leased).map(({ type }) => type)

test('a worker that has nothing else to do leases a saga once and reads its payload once', async () => {
  const { outbox, storage, leased, bus } = watched()
  const work = activity('work', { execute: () => ({ variables: { text: 'x'.repeat(100) } }) })
  const claims = { threshold: 0 }
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [work], claims })
  const ended: string[] = []
  bus.on('saga.completed', ({ payload }) => void ended.push(payload.slipId))
  const { getPayload } = storage
  let reads = 0
  storage.getPayload = (...call) => {
    reads++
    return getPayload.apply(storage, call)
  }
  await engine.emit(routingSlip('test', 'slip').add(work, {}).add(work, {}).add(work, {}))
  await bus.start()
  await until(() => ended.length === 1)
  await bus.stop()
  expect([leased, reads]).toEqual([[1], 1])
  expect([...storage.payloads.keys()]).toEqual([])
})

test('reads a payload again that ran out while its event waited for its turn', async () => {
  const { clock, outbox, appended, bus } = watched({ concurrency: 1, handlerTimeout: '1h', lease: '1h' })
  const steps: number[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  const work = activity('work', {
    async execute(_: object, { step }) {
      steps.push(step)
      await bus.emit('other', 'takes the turn of the next step')
    },
  })
  const claims = { threshold: 0, ttl: '10m' } as const
  const retry = { maxAttempts: 1 }
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [work], claims, retry })
  bus.on('other', () => promise)
  await engine.emit(routingSlip('test', 'slip').add(work, {}).add(work, {}))
  await bus.start()
  await until(() => steps.length === 1)
  await clock.advance(11 * 60_000)
  resolve()
  await clock.advance(1_000)
  await bus.stop()
  expect(leasedTypes(appended)).toEqual(['saga.step'])
  const { letters } = await outbox.deadLetters.list()
  expect(letters.map(({ error }) => error)).toEqual([expect.stringContaining('ClaimExpiredError')])
  expect(steps).toEqual([0])
})

test('nothing overtakes what has waited for longer', async () => {
  const { bus, storage, handled, note, all } = watched({ concurrency: 1, batchSize: 4 })
  const { lease } = storage
  // Slower than the handlers, so that the queue is empty at times.
  storage.lease = async (...call) => {
    for (let turn = 0; turn < 20; turn++) await setImmediate()
    return lease.apply(storage, call)
  }
  bus.on('first', async (event, { emit }) => {
    note(event)
    await setImmediate()
    await emit('second', `${event.payload} again`)
  })
  bus.on('second', note)
  const first = Array.from({ length: 40 }, (_, number) => `${number}`)
  for (const payload of first) await bus.emit('first', payload)
  await bus.start()
  await all(80)
  await bus.stop()
  expect(handled.slice(0, first.length)).toEqual(first)
})

test('only events that are due at once, and of types this worker handles', async () => {
  const { clock, storage, bus, appended, handled, note } = watched()
  bus.on('first', async (event, { emit }) => {
    note(event)
    await emit('second', 'later', { delay: '1m' })
    await emit('second', 'now')
    await emit('other', 'elsewhere')
  })
  bus.on('second', note)
  await bus.emit('first', 'go')
  await bus.start()
  await clock.advance(1_000)
  expect(leasedTypes(appended)).toEqual(['second'])
  expect(handled).toEqual(['go', 'now'])
  await clock.advance(60_000)
  await bus.stop()
  expect(handled).toEqual(['go', 'now', 'later'])
  expect([...storage.events.values()].map(({ type }) => type)).toEqual(['other'])
})

test('no more than a worker leases at once', async () => {
  const { bus, appended, note, all } = watched({ batchSize: 10 })
  bus.on('first', async (event, { emit }) => {
    note(event)
    for (let number = 0; number < 11; number++) await emit('second', `${number}`)
  })
  bus.on('second', note)
  await bus.emit('first', 'go')
  await bus.start()
  await all(12)
  await bus.stop()
  expect(leasedTypes(appended)).toEqual([])
})

test('wakes nobody', async () => {
  const { outbox, bus, note, all } = watched()
  const wakes: number[] = []
  bus.on('first', async (event, { emit }) => {
    note(event)
    coreOf(outbox).wake.subscribe((inMs) => wakes.push(inMs))
    await emit('second', 'next')
  })
  bus.on('second', note)
  await bus.emit('first', 'go')
  await bus.start()
  await all(2)
  await bus.stop()
  expect(wakes).toEqual([])
})

test('nothing new while the bus stops', async () => {
  const { bus, appended, handled, note } = watched()
  const { promise, resolve } = Promise.withResolvers<void>()
  bus.on('first', async (event, { emit }) => {
    note(event)
    await promise
    await emit('second', 'next')
  })
  bus.on('second', note)
  await bus.emit('first', 'go')
  await bus.start()
  await until(() => handled.length === 1)
  const stopped = bus.stop()
  resolve()
  await stopped
  expect(appended.map(({ type, leased = false }) => [type, leased])).toContainEqual(['second', false])
  expect(handled).toEqual(['go'])
})

test('what is stored while the bus stops is given back at once, and no attempt counted', async () => {
  const { storage, bus, appended } = watched()
  bus.on('first', async (_, { emit }) => void (await emit('second', 'next')))
  bus.on('second', () => {})
  const { write } = storage
  const writing = Promise.withResolvers<void>()
  const written = Promise.withResolvers<void>()
  await bus.emit('first', 'go')
  storage.write = async (...call) => {
    writing.resolve()
    await written.promise
    return write.apply(storage, call)
  }
  await bus.start()
  await writing.promise
  const stopped = bus.stop()
  written.resolve()
  await stopped
  expect(leasedTypes(appended)).toEqual(['second'])
  const [event] = storage.events.values()
  expect(event).toMatchObject({ type: 'second', state: 'waiting', attempt: 1, uncounted: 1 })
})

test('goes on at once when only the answer to its write was lost', async () => {
  const { clock, storage, bus, leased, handled, note } = watched()
  bus.on('first', async (event, { emit }) => {
    note(event)
    await emit('second', 'next')
  })
  const attempts: number[] = []
  bus.on('second', (event) => {
    attempts.push(event.attempt)
    note(event)
  })
  await bus.emit('first', 'go')
  const { write } = storage
  storage.write = async (...call) => {
    storage.write = write
    await write.apply(storage, call)
    throw new UnknownOutcomeError('the connection was lost')
  }
  const told = bus.waitFor('first')
  await bus.start()
  await until(() => handled.length === 1)
  await clock.advance(100)
  await told
  await bus.stop()
  expect([handled, attempts, leased]).toEqual([['go', 'next'], [1], [1]])
  expect(storage.events.size).toBe(0)
})

test('nothing is gone on with whose write came too late', async () => {
  const { clock, storage, bus, handled, note } = watched()
  const { write } = storage
  storage.write = () => {
    storage.write = write
    return Promise.reject(new UnknownOutcomeError('the connection was lost'))
  }
  bus.on('first', async (event, { emit }) => {
    note(event)
    if (handled.length > 1) return
    for (const stored of storage.events.values()) stored.attempt++
    await emit('second', 'of nobody')
  })
  bus.on('second', note)
  await write.call(storage, [appending(newEvent({ type: 'first', body: '"go"' }))])
  await bus.start()
  await until(() => handled.length === 1)
  await clock.advance(1_000)
  await bus.stop()
  expect(handled).toEqual(['go'])
  expect([...storage.events.values()].map(({ type }) => type)).toEqual(['first'])
})

test('a chain of slow handlers does not make batches smaller', async () => {
  const { clock, storage, bus, handled, note } = watched({ poll: { max: 1_000 } })
  bus.on('first', async (event, { emit }) => {
    note(event)
    await new Promise<void>((resolve) => clock.after(500, resolve))
    if (handled.length < 10) await emit('first', 'go')
  })
  const { lease } = storage
  const limits: number[] = []
  storage.lease = (request) => {
    limits.push(request.limit)
    return lease.call(storage, request)
  }
  await bus.emit('first', 'go')
  await bus.start()
  await clock.advance(10_000)
  await bus.stop()
  expect(handled).toHaveLength(10)
  expect(Math.min(...limits)).toBe(20)
  expect(limits.at(-1)).toBeGreaterThan(20)
})
