import { AsyncLocalStorage } from 'node:async_hooks'
import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { activity, InMemoryOutbox, OutboxEventBus, routingSlip, SagaEngine } from '../src/index.ts'
import type { InMemoryStorage } from '../src/memory/storage.ts'
import { sleep, until } from '../src/testing/index.ts'

const request = new AsyncLocalStorage<string>()

function opened() {
  const outbox = new InMemoryOutbox({ logger: false })
  const bus = new OutboxEventBus(outbox, { concurrency: 2, poll: { max: 20 }, retry: { delay: 1 } })
  return { outbox, bus, storage: outbox.storage as InMemoryStorage }
}

test('a bus that is started inside a request leases and runs its handlers outside of it', async () => {
  const { bus, storage } = opened()
  const seen: unknown[] = []
  const leasedIn = new Set<unknown>()
  const { lease } = storage
  storage.lease = (asked) => {
    leasedIn.add(request.getStore())
    return lease.call(storage, asked)
  }
  bus.on('a', (_, { attempt }) => {
    seen.push(request.getStore())
    if (attempt === 1) throw new Error('once more')
  })
  await request.run('the one that started it', () => bus.start())
  await Promise.all([request.run('the one that emitted', () => bus.emit('a', {})), bus.waitFor('a')])
  await request.run('the one that stopped it', () => bus.stop())
  await bus.start()
  await Promise.all([bus.emit('a', {}), bus.waitFor('a')])
  await bus.stop()
  expect(seen).toEqual([undefined, undefined, undefined, undefined])
  expect([...leasedIn]).toEqual([undefined])
})

test('what a handler enters is seen by itself, and by no other handler, retry or write', async () => {
  const { bus, storage } = opened()
  const seen: unknown[] = []
  const own: unknown[] = []
  const { write, lease } = storage
  const written = new Set<unknown>()
  storage.write = (outcomes, tx) => {
    if (outcomes.some(({ settle }) => settle)) written.add(request.getStore())
    return write.call(storage, outcomes, tx)
  }
  storage.lease = (asked) => {
    written.add(request.getStore())
    return lease.call(storage, asked)
  }
  bus.use({
    handle(_, next) {
      seen.push(request.getStore())
      request.enterWith('middleware')
      return next()
    },
  })
  for (const type of ['at once', 'later'].map((text) => text.replace(' ', '-')))
    bus.on(type, async ({ payload }, { attempt, emit }) => {
      request.enterWith(`handler ${payload}`)
      if (type === 'later') await sleep(1)
      await emit('next', {})
      own.push(request.getStore() === `handler ${payload}`)
      if (attempt === 1) throw new Error('once more')
    })
  bus.on('next', () => {})
  await bus.start()
  await bus.emitMany(
    Array.from({ length: 20 }, (_, payload) => ({ type: payload % 2 ? 'later' : 'at-once', payload })),
  )
  await until(() => storage.events.size === 0)
  await bus.stop()
  expect([...new Set(seen)]).toEqual([undefined])
  expect([own.length, own.every(Boolean)]).toEqual([40, true])
  expect([...written]).toEqual([undefined])
})

test('what one activity enters is not seen by the next one', async () => {
  const { bus, outbox } = opened()
  const seen: unknown[] = []
  const entering = activity('entering', {
    execute(_: object, { step }) {
      seen.push(request.getStore())
      request.enterWith(`step ${step}`)
    },
  })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [entering] })
  bus.on('saga.completed', () => void seen.push(request.getStore()))
  await bus.start()
  const slip = routingSlip('test').add(entering, {}).add(entering, {}).add(entering, {})
  await Promise.all([
    request.run('the one that emitted', () => engine.emit(slip)),
    bus.waitFor('saga.completed'),
  ])
  await bus.stop()
  expect(seen).toEqual([undefined, undefined, undefined, undefined])
})

test('a write that is shared is nobody’s, and everybody goes on in a context of its own', async () => {
  const { bus, storage } = opened()
  const { write } = storage
  const writes: [number, unknown][] = []
  storage.write = async (outcomes, tx) => {
    writes.push([outcomes.length, request.getStore()])
    await sleep(2)
    return write.call(storage, outcomes, tx)
  }
  const after = await Promise.all(
    Array.from({ length: 12 }, (_, n) =>
      request.run(`request ${n}`, async () => {
        await bus.emit('a', { n })
        await setImmediate()
        return request.getStore()
      }),
    ),
  )
  expect(after).toEqual(Array.from({ length: 12 }, (_, n) => `request ${n}`))
  expect(writes[0]).toEqual([1, 'request 0'])
  expect(writes.slice(1).map(([, store]) => store)).toEqual(writes.slice(1).map(() => undefined))
  expect(Math.max(...writes.map(([count]) => count))).toBe(11)
})

test('inside a transaction the caller’s own context goes on', async () => {
  const { outbox, bus } = opened()
  const seen: unknown[] = []
  bus.use({ emit: () => void seen.push(request.getStore()) })
  await request.run('mine', () =>
    outbox.transaction(async () => {
      await bus.emit('a', {})
      await outbox.transaction(async () => {
        await bus.emit('b', {})
        seen.push(request.getStore())
      })
      outbox.detached(() => seen.push(request.getStore()))
    }),
  )
  expect(seen).toEqual(['mine', 'mine', 'mine', 'mine'])
})
