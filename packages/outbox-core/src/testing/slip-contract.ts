import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { type Clock, systemClock } from '../clock.ts'
import { RetryLaterError } from '../delivering/attempt-errors.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { Itinerary } from '../saga/itinerary.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { type PlaceTest, sleep, until } from './harness.ts'
import { world } from './saga-fixtures.ts'

const TEN_MINUTES_MS = 600_000

/** A process whose clock is not the database's. */
function off(ms: number): Clock {
  return { ...systemClock, now: () => Date.now() + ms }
}

/** What travels with a slip, by which clock it is judged, and how often it starts. */
export function slipContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('a slip', () => {
    test('takes its headers to every step, compensation and lifecycle event', async (place) => {
      const seen: string[] = []
      const noting = activity('noting', {
        execute({ fail }: { fail: boolean }, { headers, step }) {
          seen.push(`execute ${step} ${headers['tenant']} ${Object.keys(headers)}`)
          if (fail) throw new Error('no')
        },
        compensate(_, { headers, step }) {
          seen.push(`compensate ${step} ${headers['tenant']} ${Object.keys(headers)}`)
        },
        retry: { maxAttempts: 1 },
      })
      const { bus, engine, ended } = world(place.outbox, [noting])
      for (const kind of ['saga.stepCompleted', 'saga.faulted'] as const)
        bus.on(kind, ({ headers }) => void seen.push(`${kind} ${headers['tenant']}`))
      const compensated = bus.waitFor('saga.compensated')
      await bus.start()
      const slip = routingSlip('test').add(noting, { fail: false }).add(noting, { fail: true })
      await engine.emit(slip, { headers: { tenant: 'x' } })
      await ended()
      await until(() => seen.length === 5)
      await bus.stop()
      expect((await compensated).headers).toMatchObject({ tenant: 'x' })
      expect(seen.toSorted()).toEqual([
        'compensate 0 x tenant',
        'execute 0 x tenant',
        'execute 1 x tenant',
        'saga.faulted x',
        'saga.stepCompleted x',
      ])
    })

    for (const [how, ms] of [
      ['ahead', TEN_MINUTES_MS],
      ['behind', -TEN_MINUTES_MS],
    ] as const) {
      test(
        `within its deadline is run by a process whose clock is ten minutes ${how}`,
        async (place) => {
          const { bus, engine, slip, log, told, ended } = world(place.outbox)
          await bus.start()
          await engine.emit(slip('a', 'b').deadline('5m'))
          await ended()
          await bus.stop()
          expect([log, told]).toEqual([['a', 'b'], ['completed test']])
        },
        { clock: off(ms) },
      )

      test(
        `past its deadline is compensated by a process whose clock is ten minutes ${how}`,
        async (place) => {
          const { bus, engine, slip, log, told, ended } = world(place.outbox)
          await engine.emit(slip('a').deadline(20))
          await sleep(40)
          await bus.start()
          await ended()
          await bus.stop()
          expect([log, told]).toEqual([[], ["compensated: the routing slip's deadline has passed"]])
        },
        { clock: off(ms) },
      )
    }

    test('is changed by what activities return, and by nothing that they do to what they were given', async (place) => {
      const seen: unknown[] = []
      const meddling = activity('meddling', {
        execute(args: { list: number[] }, { variables, rest, headers }) {
          seen.push(structuredClone([args.list, variables['n'], rest.steps.length, headers]))
          args.list.push(2)
          const writable = variables as { n: { x: number }; extra?: number }
          writable.n.x++
          writable.extra = 1
          const steps = rest.steps as { activity: string; args: unknown }[]
          for (const step of steps) Object.assign(step.args as object, { list: [7] })
          steps.length = 0
          Object.assign(headers, { tenant: 'changed' })
          return { log: { list: [1] }, variables: { returned: 1 } }
        },
        compensate(log, { fault, variables, headers }) {
          seen.push(structuredClone([log, fault.message, variables, headers]))
          log.list.push(2)
          Object.assign(fault, { message: 'changed' })
          Object.assign(variables, { n: 'changed' })
          Object.assign(headers, { tenant: 'changed' })
        },
      })
      const { bus, engine, step, broken, told, ended } = world(place.outbox, [meddling])
      broken.add('fails')
      await bus.start()
      const slip = routingSlip('test')
        .variables({ n: { x: 1 } })
        .add(meddling, { list: [1] })
        .add(meddling, { list: [1] })
        .add(step, { name: 'fails' })
      await engine.emit(slip, { headers: { tenant: 'x' } })
      await ended()
      await bus.stop()
      const executed = (left: number) => [[1], { x: 1 }, left, { tenant: 'x' }]
      const undone = [{ list: [1] }, 'fails is broken', { n: { x: 1 }, returned: 1 }, { tenant: 'x' }]
      expect(seen).toEqual([executed(2), executed(1), undone, undone])
      expect(told).toEqual(['compensated: fails is broken'])
    })

    test('may go on with what was left of it and more', async (place) => {
      const revising = activity('revising', {
        execute(_: object, { rest }) {
          return { revise: new Itinerary([...rest.steps, { activity: 'step', args: { name: 'c' } }]) }
        },
      })
      const { bus, engine, step, log, ended } = world(place.outbox, [revising])
      await bus.start()
      await engine.emit(routingSlip('test').add(revising, {}).add(step, { name: 'b' }))
      await ended()
      await bus.stop()
      expect(log).toEqual(['b', 'c'])
    })

    test('with an id of its own starts once while it waits for longer than its store’s time to live', async (place) => {
      const { outbox } = place
      const retry = { maxAttempts: 2, delay: 1 }
      const bus = new OutboxEventBus(outbox, { retry, poll: { max: 20 } })
      const store = outbox.sagaStore(300)
      let runs = 0
      const starting = activity('starting', { execute: (_: object) => void runs++ })
      let waiting = false
      const waits = activity('waits', {
        execute(_: object) {
          waiting = true
          throw new RetryLaterError('later', '1m')
        },
      })
      const engine = new SagaEngine({ bus, store, activities: [starting, waits], retry })
      const slip = routingSlip('test', 'once').add(starting, {}).add(waits, {})
      await engine.emit(slip)
      await bus.start()
      await until(async () => waiting && (await place.events()).some(({ state }) => state === 'waiting'))
      await sleep(350)
      await store.cleanup()
      await engine.emit(slip)
      await expect(engine.emit(slip.add(starting, {}))).rejects.toMatchObject({
        code: 'OUTBOX_DUPLICATE_EVENT',
      })
      await sleep(50)
      await bus.stop()
      expect(runs).toBe(1)
      expect((await place.events()).map(({ state }) => state).sort()).toEqual(['done', 'waiting'])
    })
  })
}
