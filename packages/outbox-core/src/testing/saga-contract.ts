import { describe, expect } from 'vitest'
import { DuplicateEventError } from '../errors.ts'
import { activity } from '../saga/activity.ts'
import { itinerary } from '../saga/itinerary.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { EmptyItineraryError, UnknownActivityError } from '../saga/slip-errors.ts'
import { type PlaceTest, sleep, takeDue } from './harness.ts'
import { world } from './saga-fixtures.ts'

/** The path of a slip: transitions exactly once, payloads that live and die with their slips. */
export function sagaContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('saga', () => {
    test('runs its activities in order, the same one as often as asked, and tells of its end', async (place) => {
      const { bus, engine, slip, log, told, ended } = world(place.outbox)
      await bus.start()
      const id = await engine.emit(slip('a', 'b', 'a'))
      expect(id).toMatch(/^[0-9a-f-]{36}$/)
      await ended()
      await bus.stop()
      expect(log).toEqual(['a', 'b', 'a'])
      expect(told).toEqual(['completed test'])
      expect(await place.events()).toEqual([])
    })

    test('carries variables from step to step and gives every step its own idempotency key', async (place) => {
      const keys: string[] = []
      const flaky = activity('flaky', {
        execute(_: object, { idempotencyKey, attempt, variables, step }) {
          keys.push(`${idempotencyKey} ${attempt}`)
          if (attempt < 3) throw new Error('not yet')
          return { variables: { total: ((variables['total'] as number | undefined) ?? 100) + step } }
        },
      })
      const { bus, engine } = world(place.outbox, [flaky])
      const totals: unknown[] = []
      bus.on('saga.stepCompleted', ({ payload }) => void totals.push(payload.step))
      await bus.start()
      const slip = routingSlip('test', 's1').variables({ total: 10 }).add(flaky, {}).add(flaky, {})
      await engine.emit(slip)
      const { payload } = await bus.waitFor('saga.completed')
      await bus.stop()
      expect(keys).toEqual([0, 1].flatMap((step) => [1, 2, 3].map((attempt) => `saga/s1/${step} ${attempt}`)))
      expect(payload.variables).toEqual({ total: 11 })
      expect(totals.toSorted()).toEqual([0, 1])
    })

    test('an activity may revise the rest of the itinerary or end the slip', async (place) => {
      const revise = activity('revise', {
        execute({ to }: { to: 'empty' | 'more' | 'end' }, { rest }) {
          if (to === 'end') return { terminate: 'enough' }
          return {
            revise:
              to === 'empty' ? itinerary() : itinerary().add(extra, {}).add(extra, {}) && rest.add(extra, {}),
          }
        },
      })
      const ran: number[] = []
      const extra = activity('extra', {
        execute(_: object, { step }) {
          ran.push(step)
        },
      })
      const { bus, engine, slip, log, told, ended } = world(place.outbox, [revise, extra])
      await bus.start()
      await engine.emit(slip('a').add(revise, { to: 'more' }).add(extra, {}))
      await ended(1)
      expect(ran).toEqual([2, 3])
      await engine.emit(slip('b').add(revise, { to: 'empty' }).add(extra, {}))
      await ended(2)
      await engine.emit(slip('c').add(revise, { to: 'end' }).add(extra, {}))
      await ended(3)
      await bus.stop()
      expect(ran).toEqual([2, 3])
      expect(log).toEqual(['a', 'b', 'c'])
      expect(told).toEqual(['completed test', 'completed test', 'terminated: enough'])
    })

    test('large slips travel through the store, one payload at a time, and none is left', async (place) => {
      const { bus, engine, step, ended, log } = world(place.outbox)
      const pad = 'p'.repeat(20_000)
      const slip = routingSlip('large')
        .add(step, { name: 'a', pad })
        .add(step, { name: 'b', pad })
        .add(step, { name: 'c' })
      await engine.emit(slip)
      expect(await place.events()).toMatchObject([
        { body: 'null', headers: { 'outbox-slip': expect.any(String) } },
      ])
      expect(await place.payloads()).toHaveLength(1)
      let most = 0
      let watching = true
      const watch = async (): Promise<void> => {
        for (; watching; await sleep(1)) most = Math.max(most, (await place.payloads()).length)
      }
      const watched = watch()
      await bus.start()
      await ended()
      watching = false
      await watched
      await bus.stop()
      expect(log).toEqual(['a', 'b', 'c'])
      expect(most).toBeLessThanOrEqual(2)
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('leaves neither event nor payload after a rollback', async (place) => {
      const { engine, step } = world(place.outbox)
      const slip = routingSlip('large').add(step, { name: 'a', pad: 'p'.repeat(20_000) })
      const failing = place.outbox.transaction(async (tx) => {
        await place.writeBusinessRow(tx, 'order')
        await engine.emit(slip)
        throw new Error('rollback')
      })
      await expect(failing).rejects.toThrow('rollback')
      expect(await place.businessRows()).toEqual([])
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
      await place.outbox.transaction(() => engine.emit(slip))
      expect(await place.events()).toHaveLength(1)
      expect(await place.payloads()).toHaveLength(1)
    })

    test('a slip with an id of its own starts once, even after it has ended', async (place) => {
      const { bus, engine, step, log, ended } = world(place.outbox)
      const slip = routingSlip('order', 'order-1')
        .add(step, { name: 'a' })
        .add(step, { name: 'b' })
        .deadline('1h')
      expect(await engine.emit(slip)).toBe('order-1')
      await engine.emit(slip)
      await expect(engine.emit(slip.add(step, { name: 'c' }))).rejects.toThrow(DuplicateEventError)
      await bus.start()
      await ended()
      await engine.emit(slip)
      await sleep(50)
      await bus.stop()
      expect(log).toEqual(['a', 'b'])
    })

    test('makes each transition once, although a crashed worker ran the activity before', async (place) => {
      const { bus, engine, slip, log, ended } = world(place.outbox)
      await engine.emit(slip('a', 'b'))
      await takeDue(place.outbox.storage, 1, 60_000)
      await place.expireLeases()
      await bus.start()
      await ended()
      await bus.stop()
      expect(log).toEqual(['a', 'b'])
    })

    test('refuses slips that can’t run, before anything is written', async (place) => {
      const { engine, slip } = world(place.outbox)
      const stranger = activity('stranger', { execute: () => {} })
      await expect(engine.emit(routingSlip('empty'))).rejects.toThrow(EmptyItineraryError)
      await expect(engine.emit(slip('a').add(stranger, {}))).rejects.toThrow(UnknownActivityError)
      await expect(engine.emit(slip('a').variables({ bad: 1n }))).rejects.toMatchObject({
        path: '$.variables.bad',
      })
      expect(await place.events()).toEqual([])
    })
  })
}
