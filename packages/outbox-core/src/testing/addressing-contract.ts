import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import type { BusOptions } from '../delivering/bus-options.ts'
import { activity, activityContract } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import type { SagaCompleted } from '../saga/lifecycle.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import type { Place } from './backend.ts'
import { type PlaceTest, recordingLogger, sleep, takeDue, until } from './harness.ts'

/** Work finds its worker: events go to processes that have a handler, steps to those that have the activity. */
export function addressingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('work finds its worker', () => {
    test('two services on one outbox take what they can handle, and leave the rest alone', async (place) => {
      const seen: string[] = []
      const orders = busOn(place)
      const invoices = busOn(place)
      orders.on('order', ({ payload }, { attempt }) => void seen.push(`order ${payload} ${attempt}`))
      invoices.on('invoice', ({ payload }, { attempt }) => void seen.push(`invoice ${payload} ${attempt}`))
      await Promise.all([orders.start(), invoices.start()])
      const expected: string[] = []
      for (let n = 0; n < 10; n++) {
        for (const type of ['order', 'invoice']) {
          await orders.emit(type, n)
          expected.push(`${type} ${n} 1`)
        }
      }
      await until(() => seen.length === expected.length)
      await Promise.all([orders.stop(), invoices.stop()])
      expect(seen.toSorted()).toEqual(expected.toSorted())
      expect(await place.events()).toEqual([])
    })

    test('what nobody handles waits, uncounted attempts and all, and a handler that comes later takes it', async (place) => {
      const bus = busOn(place)
      const seen: number[] = []
      bus.on('other', () => {})
      await bus.start()
      await bus.emit('late', 1)
      await sleep(100)
      expect(await place.events()).toMatchObject([{ type: 'late', state: 'waiting', attempt: 0 }])
      expect(await place.outbox.stats()).toMatchObject({ due: 1, waitingForHandler: { late: 1 } })
      bus.on('late', (_, { attempt }) => void seen.push(attempt))
      await until(() => seen.length === 1)
      await until(async () => (await place.events()).length === 0)
      expect(await place.outbox.stats()).toMatchObject({ due: 0, waitingForHandler: {} })
      await bus.stop()
      expect(seen).toEqual([1])
    })

    test('what nobody handles is told of once, and ends as a dead letter in time', async (place) => {
      const logger = recordingLogger()
      const outbox = test.traits.singleClient ? place.outbox : await place.sibling({ logger })
      const bus = new OutboxEventBus(outbox, { poll: { max: 20 }, deferFor: 200 })
      await bus.start()
      await bus.emitMany([1, 2, 3].map((payload) => ({ type: 'nobody', payload })))
      await until(async () => (await outbox.stats()).dead === 3)
      await bus.stop()
      const [letter] = (await outbox.deadLetters.list()).letters
      expect(letter?.error).toContain('no worker has a handler for event "nobody"')
      if (test.traits.singleClient) return
      const told = logger.lines.filter(({ message }) => message.startsWith('events wait for a handler'))
      expect(told).toMatchObject([{ level: 'warn', fields: { address: 'nobody' } }])
    })

    test('what others take slowly is theirs, however long it waits', async (place) => {
      const slow = busOn(place, { concurrency: 1, batchSize: 1 })
      const beside = busOn(place, { deferFor: 150 })
      const taken: unknown[] = []
      slow.on('slow', async ({ payload }) => {
        await sleep(60)
        taken.push(payload)
      })
      await slow.emitMany(Array.from({ length: 15 }, (_, payload) => ({ type: 'slow', payload })).map(spread))
      await Promise.all([beside.start(), slow.start()])
      await until(() => taken.length === 15)
      await Promise.all([beside.stop(), slow.stop()])
      expect(await place.outbox.stats()).toMatchObject({ dead: 0 })
    })

    test('a handler of several types, and one of all that have none', async (place) => {
      const bus = busOn(place)
      const seen: string[] = []
      bus.on(['a', 'b'], ({ type, payload }) => void seen.push(`ab ${type} ${payload}`))
      bus.on('c', ({ payload }) => void seen.push(`c ${payload}`))
      bus.on('*', ({ type, payload }) => void seen.push(`* ${type} ${payload}`))
      await bus.start()
      for (const [n, type] of ['a', 'b', 'c', 'd', 'e'].entries()) await bus.emit(type, n)
      await until(() => seen.length === 5)
      await until(async () => (await place.events()).length === 0)
      await bus.stop()
      expect(seen.toSorted()).toEqual(['* d 3', '* e 4', 'ab a 0', 'ab b 1', 'c 2'])
    })

    test('named handlers of one type: each gets the event, with attempts and dead letters of its own', async (place) => {
      const bus = busOn(place, { retry: { maxAttempts: 2, delay: 1 } })
      const seen: string[] = []
      bus.on('order', ({ id, payload }) => void seen.push(`mail ${id} ${JSON.stringify(payload)}`), {
        name: 'mail',
      })
      bus.on(
        'order',
        (_, { attempt }) => {
          seen.push(`audit ${attempt}`)
          throw new Error('no audit today')
        },
        { name: 'audit' },
      )
      await bus.start()
      await bus.emit('order', { n: 1 }, { id: 'o-1', headers: { tenant: 'x' } })
      await until(async () => (await place.outbox.stats()).dead === 1)
      await until(async () => (await place.events()).length === 1)
      expect(seen.toSorted()).toEqual(['audit 1', 'audit 2', 'mail o-1#mail {"n":1}'])
      const { letters } = await place.outbox.deadLetters.list({ type: 'order' })
      expect(letters).toMatchObject([
        { id: 'o-1#audit', type: 'order', payload: { n: 1 }, headers: { tenant: 'x' } },
      ])
      await bus.stop()
    })

    test('of a type with its own concurrency this process has no more in hand at once', async (place) => {
      const bus = busOn(place, { concurrency: 10 })
      const running = { slow: 0, most: 0, fast: 0 }
      bus.on(
        'slow',
        async () => {
          running.most = Math.max(running.most, ++running.slow)
          await sleep(10)
          running.slow--
          running.fast++
        },
        { concurrency: 2 },
      )
      await bus.emitMany(Array.from({ length: 12 }, (_, n) => ({ type: 'slow', payload: n })))
      await bus.start()
      await until(() => running.fast === 12)
      await bus.stop()
      expect(running.most).toBe(2)
    })

    test('a step goes to a worker that has its activity; one that only starts slips knows the contract', async (place) => {
      const charge = activityContract<{ cents: number }, { cents: number }>('charge')
      const ran: string[] = []
      const slip = routingSlip('order', 's-1').add(charge, { cents: 5 })
      const starter = new SagaEngine({ ...engineParts(place), activities: [charge] })
      const reserve = activity('reserve', {
        execute: () => void ran.push('reserve'),
        compensate: () => void ran.push('release'),
      })
      await expect(starter.emit(routingSlip('order').add(reserve, {}))).rejects.toThrow('"reserve"')
      const startingBus = engineParts(place).bus
      const starting = new SagaEngine({ ...engineParts(place, startingBus), activities: [charge, reserve] })
      await startingBus.start()
      await starting.emit(slip.add(reserve, {}))
      await sleep(50)
      expect(ran).toEqual([])
      const other = engineParts(place)
      new SagaEngine({
        ...other,
        activities: [
          activity(charge, {
            execute({ cents }) {
              ran.push(`charge ${cents}`)
              return { log: { cents } }
            },
          }),
          activityContract('reserve'),
        ],
        lifecycle: [],
      })
      await other.bus.start()
      await until(async () => (await place.events()).every(({ state }) => state === 'done'))
      await Promise.all([other.bus.stop(), startingBus.stop()])
      expect(ran).toEqual(['charge 5', 'reserve'])
    })

    test('lifecycle events are told that the process that started the slip handles, whoever ends it', async (place) => {
      const step = activity('step', { execute: () => {} })
      const handling = engineParts(place)
      const completed: string[] = []
      handling.bus.on('saga.completed', ({ payload }) => {
        completed.push((payload as SagaCompleted).slipId)
      })
      const starting = new SagaEngine({ ...handling, activities: [step] })
      const without = engineParts(place)
      const unheard = new SagaEngine({ ...without, activities: [step] })
      await starting.emit(routingSlip('told', 'told').add(step, {}).add(step, {}))
      await unheard.emit(routingSlip('untold', 'untold').add(step, {}))
      await without.bus.start()
      const { storage } = place.outbox
      await until(async () => (await storage.stats()).dueByAddress['saga.completed'] === 1)
      await until(async () => (await storage.stats()).leased === 0)
      await without.bus.stop()
      expect((await storage.stats()).dueByAddress).toEqual({ 'saga.completed': 1 })
      await handling.bus.start()
      await until(() => completed.length > 0)
      await handling.bus.stop()
      expect(completed).toEqual(['told'])
    })

    test('old and new workers of a rolling deploy: the new activity runs where it is known, nothing is buried', async (place) => {
      const ran: string[] = []
      const a = activity('a', { execute: () => void ran.push('a') })
      const b = activity('b', { execute: () => void ran.push('b') })
      const old = engineParts(place)
      new SagaEngine({ ...old, activities: [a] })
      const fresh = engineParts(place)
      const engine = new SagaEngine({ ...fresh, activities: [a, b] })
      const ended: string[] = []
      fresh.bus.on('saga.completed', ({ payload }) => void ended.push((payload as { slipId: string }).slipId))
      await Promise.all([old.bus.start(), fresh.bus.start()])
      for (let n = 0; n < 5; n++)
        await engine.emit(routingSlip('x', `s-${n}`).add(a, {}).add(b, {}).add(a, {}))
      await until(() => ran.length === 15)
      await Promise.all([old.bus.stop(), fresh.bus.stop()])
      expect(ran.filter((name) => name === 'b')).toHaveLength(5)
      expect(await place.outbox.stats()).toMatchObject({ dead: 0 })
    })

    test('steps and events for named handlers are for those alone, not for "*"', async (place) => {
      const all = busOn(place)
      const seen: string[] = []
      all.on('*', ({ type }) => void seen.push(type))
      const engine = new SagaEngine({
        ...engineParts(place),
        activities: [activity('a', { execute: () => {} })],
      })
      await all.start()
      await engine.emit(routingSlip('x').add(activityContract('a')))
      await all.emit('plain', 1)
      await until(() => seen.length === 1)
      await sleep(50)
      await all.stop()
      expect(seen).toEqual(['plain'])
      expect(await takeDue(place.outbox.storage, 10, 60_000)).toMatchObject([
        { type: 'saga.step', address: 'saga.step#a', attempt: 1 },
      ])
    })
  })
}

/** Due one after the other, as in a backlog. */
function spread<Event extends object>(event: Event, index: number): Event & { deliverAt: Date } {
  return { ...event, deliverAt: new Date(Date.now() - 60_000 + 1_000 * index) }
}

function busOn<Tx, O>({ outbox }: Place<Tx, O>, options: BusOptions = {}): OutboxEventBus {
  return new OutboxEventBus(outbox, { poll: { max: 20 }, ...options })
}

function engineParts<Tx, O>(place: Place<Tx, O>, bus = busOn(place)) {
  return { bus, store: place.outbox.sagaStore('1d') }
}
