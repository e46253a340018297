import { expect, test } from 'vitest'
import { InMemoryOutbox, OutboxEventBus, StorageError } from '../src/index.ts'
import { ManualClock, sleep, until } from '../src/testing/index.ts'

/** An outbox whose storage can tell other processes, and what it was asked to tell. */
function announcing(options: { readonly clock?: ManualClock } = {}) {
  const outbox = new InMemoryOutbox({ logger: false, ...options })
  const told: string[] = []
  const { storage } = outbox
  const { write } = storage
  storage.write = (outcomes, tx, options) => {
    if (options?.announce) told.push('with the write')
    return write.call(storage, outcomes, tx)
  }
  Object.assign(storage, { announce: async () => void told.push('after the commit') })
  return { outbox, bus: new OutboxEventBus(outbox), told }
}

test('an emit of its own carries the announcement in its write', async () => {
  const { bus, told } = announcing()
  await bus.emit('a', 1)
  await sleep(20)
  expect(told).toEqual(['with the write'])
})

test('what is emitted in a transaction is announced after its commit, and only then', async () => {
  const { outbox, bus, told } = announcing()
  await outbox.transaction(async () => {
    await bus.emit('a', 1)
    await sleep(10)
    expect(told).toEqual([])
  })
  expect(told).toEqual(['after the commit'])
  await expect(
    outbox.transaction(async () => {
      await bus.emit('a', 1)
      throw new Error('rollback')
    }),
  ).rejects.toThrow('rollback')
  await sleep(20)
  expect(told).toHaveLength(1)
})

test('emits of the same millisecond are announced twice: with the first, and after the last', async () => {
  const clock = new ManualClock()
  const { bus, told } = announcing({ clock })
  for (let count = 0; count < 200; count++) await bus.emit('a', count)
  expect(told).toEqual(['with the write'])
  await clock.advance(1)
  expect(told).toEqual(['with the write', 'after the commit'])
  await clock.advance(100)
  expect(told).toHaveLength(2)
})

test('under a steady load announcements travel with the writes', async () => {
  const clock = new ManualClock()
  const { bus, told } = announcing({ clock })
  for (let count = 0; count < 20; count++) {
    await bus.emit('a', count)
    await clock.advance(1)
  }
  expect(told).toEqual(Array(20).fill('with the write'))
})

test('what a write that failed was to announce with it is announced all the same', async () => {
  const { outbox, bus, told } = announcing()
  const { storage } = outbox
  const { write } = storage
  storage.write = async (...parameters) => {
    await write.apply(storage, parameters)
    throw new StorageError('refused', { transient: false })
  }
  await expect(bus.emit('a', 1)).rejects.toThrow('refused')
  await until(() => told.length > 1)
  expect(told).toEqual(['with the write', 'after the commit'])
})

test('what is due later, and what handlers emit, is not announced', async () => {
  const { bus, told } = announcing()
  await bus.emit('later', 1, { delay: '1h' })
  bus.on('a', (_, { emit }) => emit('b', 2).then(() => {}))
  bus.on('b', () => {})
  await bus.start()
  await Promise.all([bus.waitFor('b'), bus.emit('a', 1)])
  await bus.stop()
  expect(told).toEqual(['with the write'])
})

test('announcements that take long become rarer', async () => {
  const clock = new ManualClock()
  const outbox = new InMemoryOutbox({ logger: false, clock })
  const bus = new OutboxEventBus(outbox)
  let announced = 0
  Object.assign(outbox.storage, {
    announce: () => {
      announced++
      return new Promise<void>((resolve) => clock.after(10, resolve))
    },
  })
  const emit = (): Promise<string> => outbox.transaction(() => bus.emit('a', 1))
  await emit()
  await clock.advance(10)
  await emit()
  await clock.advance(39)
  expect(announced).toBe(1)
  await clock.advance(1)
  expect(announced).toBe(2)
})
