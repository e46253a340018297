import { expect, test } from 'vitest'
import { InMemoryOutbox, OutboxEventBus } from '../src/index.ts'
import { refusal } from '../src/testing/failing.ts'
import { sleep, until } from '../src/testing/harness.ts'

type Events = Record<'work' | 'bad' | 'good', number>

/** So many events of one key, and a bus that has met the key before: from then on it takes what waits behind as well. */
async function key(count: number) {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus<Events>(outbox, { poll: { max: 10 }, retry: { delay: 1 } })
  const numbers = Array.from({ length: count }, (_, n) => n)
  await bus.emitMany(numbers.map((payload) => ({ type: 'work', payload, key: 'k' })))
  return { outbox, bus, numbers }
}

test('what the database refuses of one event of a run is no fault of those before it', async () => {
  const { outbox, bus, numbers } = await key(30)
  const { storage } = outbox
  const { write } = storage
  storage.write = (outcomes, ...more) => {
    if (outcomes.some(({ append }) => append.some(({ type }) => type === 'bad'))) throw refusal()
    return write.call(storage, outcomes, ...more)
  }
  const handled: number[] = []
  bus.on(
    'work',
    async ({ payload }, { emit }) => {
      handled.push(payload)
      if (payload === 13) await emit('bad', payload)
      else await emit('good', payload)
    },
    { onDead: 'skip' },
  )
  const good: number[] = []
  bus.on('good', ({ payload }) => void good.push(payload))
  await bus.start()
  await until(() => good.length === 29)
  await bus.stop()
  const others = numbers.filter((n) => n !== 13)
  // What was handled behind the refused one is handled again, in order.
  expect([...new Set(handled)]).toEqual(numbers)
  expect(good.toSorted((one, other) => one - other)).toEqual(others)
  expect((await outbox.deadLetters.list()).letters).toMatchObject([{ payload: 13 }])
})

test('stop writes down what a run has done so far, and leaves the rest for later', async () => {
  const { outbox, bus, numbers } = await key(20)
  const handled: number[] = []
  const work = async ({ payload }: { payload: number }): Promise<void> => {
    handled.push(payload)
    await sleep(10)
  }
  bus.on('work', work)
  await bus.start()
  await until(() => handled.length >= 6)
  await bus.stop()
  expect(handled.length).toBeLessThan(20)
  expect(await outbox.stats()).toMatchObject({ leased: 0, due: 1, blocked: 20 - handled.length - 1 })
  const next = new OutboxEventBus<Events>(outbox, { poll: { max: 10 } })
  next.on('work', work)
  await next.start()
  await until(() => handled.length === 20)
  await next.stop()
  expect(handled).toEqual(numbers)
})

test('a lease that is lost ends the run, and tells the handler that is running', async () => {
  const { outbox, bus } = await key(10)
  const { storage } = outbox
  const lost = new OutboxEventBus<Events>(outbox, { lease: '3s', heartbeat: 100, poll: { max: 10 } })
  const reasons: unknown[] = []
  const handled: number[] = []
  lost.on('work', async ({ payload }, { signal }) => {
    handled.push(payload)
    if (payload !== 5 || reasons.length > 0) return
    // As if another worker had it by now.
    storage.extend = async (leases) => leases.map(({ id }) => id)
    await new Promise<void>((resolve) => {
      signal.addEventListener('abort', () => {
        reasons.push((signal.reason as { code?: string }).code)
        resolve()
      })
    })
  })
  await lost.start()
  await until(() => reasons.length === 1)
  await lost.stop()
  await bus.stop()
  expect(reasons).toEqual(['OUTBOX_LEASE_LOST'])
  expect(handled.slice(0, 6)).toEqual([0, 1, 2, 3, 4, 5])
})
