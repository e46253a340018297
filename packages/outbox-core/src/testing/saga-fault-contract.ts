import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { PermanentError } from '../delivering/attempt-errors.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { type PlaceTest, takeDue, until } from './harness.ts'
import { RETRY, world } from './saga-fixtures.ts'

/** Slips that fail: compensations in exact reverse, only of what completed; what can't go on waits for a human. */
export function sagaFaultContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('saga faults', () => {
    test('compensates what completed, strictly in reverse, when an activity fails for good', async (place) => {
      const { bus, engine, slip, log, broken, told, ended } = world(place.outbox)
      broken.add('d')
      await bus.start()
      await engine.emit(slip('a', 'b', 'c', 'd', 'e'))
      await ended()
      await bus.stop()
      expect(log).toEqual(['a', 'b', 'c', 'd', 'd', 'd', 'undo c', 'undo b', 'undo a'])
      expect(told).toEqual(['compensated: d is broken'])
      expect(await place.events()).toEqual([])
    })

    test('tells of a fault at once, also when there is nothing to compensate', async (place) => {
      const { bus, engine, slip, broken } = world(place.outbox)
      const faults: unknown[] = []
      bus.on('saga.faulted', ({ payload }) => void faults.push(payload.fault))
      broken.add('a')
      await bus.start()
      await engine.emit(slip('a', 'b'))
      await bus.waitFor('saga.compensated')
      await until(() => faults.length === 1)
      await bus.stop()
      expect(faults).toEqual([{ activity: 'step', step: 0, name: 'Error', message: 'a is broken' }])
    })

    test('a compensation that fails for good waits as a dead letter and can be resumed', async (place) => {
      const { bus, engine, slip, log, broken, told, ended } = world(place.outbox)
      broken.add('c').add('undo b')
      await bus.start()
      const id = await engine.emit(slip('a', 'b', 'c'))
      await ended()
      expect(told).toEqual([expect.stringContaining('stuck in step: ')])
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters).toMatchObject([{ routingSlipId: id, attempts: 3 }])
      broken.delete('undo b')
      log.length = 0
      expect(await engine.resume('unknown')).toBe(false)
      expect(await engine.resume(id)).toBe(true)
      await ended(2)
      await bus.stop()
      expect(log).toEqual(['undo b', 'undo a'])
      expect(told[1]).toBe('compensated: c is broken')
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('an activity’s timeout aborts its signal and counts as a failed attempt', async (place) => {
      const reasons: unknown[] = []
      const slow = activity('slow', {
        async execute(_: object, { signal }) {
          await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
          reasons.push((signal.reason as Error).name)
        },
        timeout: 20,
        retry: { maxAttempts: 2, delay: 1 },
      })
      const { bus, engine, slip, log, ended } = world(place.outbox, [slow])
      await bus.start()
      await engine.emit(slip('a').add(slow, {}))
      await ended()
      await bus.stop()
      expect(reasons).toEqual(['TimeoutError', 'TimeoutError'])
      expect(log).toEqual(['a', 'undo a'])
    })

    test('a deadline aborts the running activity and turns into compensation', async (place) => {
      const waiting = activity('waiting', {
        async execute(_: object, { signal }) {
          await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
          throw signal.reason
        },
      })
      const { bus, engine, slip, log, told, ended } = world(place.outbox, [waiting])
      await bus.start()
      await engine.emit(slip('a').add(waiting, {}).deadline(1_000))
      await ended()
      await engine.emit(slip('b').deadline(new Date(Date.now() - 1_000)))
      await ended(2)
      await bus.stop()
      expect(log).toEqual(['a', 'undo a'])
      expect(told).toEqual(
        Array.from({ length: 2 }, () => "compensated: the routing slip's deadline has passed"),
      )
    })

    test('an activity that kills its process every time waits as a dead letter: nothing is compensated without it', async (place) => {
      const { bus, engine, slip, log, told, ended } = world(place.outbox)
      await bus.start()
      await engine.emit(slip('a'))
      await ended()
      await bus.stop()
      const id = await engine.emit(slip('b'))
      for (let death = 0; death < RETRY.maxAttempts; death++) {
        expect(await takeDue(place.outbox.storage, 1, 60_000)).toHaveLength(1)
        await place.expireLeases()
      }
      await bus.start()
      await ended(2)
      expect(log).toEqual(['a'])
      expect(told[1]).toMatch(/^stuck in step: the last of 3 attempts .* ended without a report/)
      expect(await place.outbox.stats()).toMatchObject({ dead: 1 })
      expect(await engine.resume(id)).toBe(true)
      await ended(3)
      await bus.stop()
      expect(log).toEqual(['a', 'b'])
    })

    test('a compensation that kills its process every time waits as a dead letter, and is not run again', async (place) => {
      const { bus, engine, log, told, ended } = world(place.outbox)
      const state = {
        v: 1,
        name: 'test',
        id: 's1',
        phase: 'compensate',
        step: 1,
        itinerary: [],
        variables: {},
      }
      const fault = { step: 1, name: 'Error', message: 'broken' }
      const slip = { ...state, log: [{ step: 0, activity: 'step', log: { undo: 'a' } }], fault }
      await new OutboxEventBus(place.outbox).emit(engine.stepType, slip)
      for (let death = 0; death < RETRY.maxAttempts; death++) {
        expect(await takeDue(place.outbox.storage, 1, 60_000)).toHaveLength(1)
        await place.expireLeases()
      }
      await bus.start()
      await ended()
      await bus.stop()
      expect(log).toEqual([])
      expect(told).toEqual([expect.stringContaining('ended without a report')])
      expect(await place.outbox.stats()).toMatchObject({ dead: 1 })
    })

    test('a compensation has an idempotency key of its own, the same for every attempt', async (place) => {
      const keys: string[] = []
      const keyed = activity('keyed', {
        execute(_: object, { idempotencyKey }) {
          keys.push(idempotencyKey)
        },
        compensate(_, { idempotencyKey }) {
          keys.push(idempotencyKey)
          if (keys.length < 3) throw new Error('once more')
        },
      })
      const { bus, engine, step, broken, ended } = world(place.outbox, [keyed])
      broken.add('b')
      await bus.start()
      await engine.emit(routingSlip('test', 's1').add(keyed, {}).add(step, { name: 'b' }))
      await ended()
      await bus.stop()
      expect(keys).toEqual(['saga/s1/0', 'saga/s1/0/compensate', 'saga/s1/0/compensate'])
    })

    test('a deadline does not wait for a retry that would come after it', async (place) => {
      const failing = activity('failing', {
        execute() {
          throw new Error('not now')
        },
        retry: { maxAttempts: 2, delay: '1h', maxDelay: '1h', jitter: 0 },
      })
      const { bus, engine, slip, log, told, ended } = world(place.outbox, [failing])
      await bus.start()
      await engine.emit(slip('a').add(failing, {}).deadline(500))
      await ended()
      await bus.stop()
      expect(told).toEqual(["compensated: the routing slip's deadline has passed"])
      expect(log.slice(-1)).toEqual(log.length > 0 ? ['undo a'] : [])
    })

    test('an unknown activity or an unreadable slip becomes a dead letter with the reason, never a crash', async (place) => {
      const stranger = activity('stranger', { execute: () => {} })
      const { engine } = world(place.outbox, [stranger])
      await engine.emit(routingSlip('test', 's1').add(stranger, {}))
      const other = new OutboxEventBus(place.outbox, { poll: { max: 50 }, deferFor: '300ms' })
      const without = new SagaEngine({ bus: other, store: place.outbox.sagaStore('1d'), activities: [] })
      await other.emit('saga.step', { v: 99 })
      await other.emit('saga.step', null)
      await other.start()
      await until(async () => (await place.outbox.stats()).dead === 3)
      await other.stop()
      const errors = (await place.outbox.deadLetters.list()).letters.map(({ error }) => error).toSorted()
      expect(errors).toEqual([
        expect.stringMatching(/OUTBOX_HANDLER_MISSING.*"stranger"/),
        expect.stringContaining('OUTBOX_INVALID_SLIP'),
        expect.stringContaining('OUTBOX_UNSUPPORTED_SLIP'),
      ])
      expect(await without.resume('s1')).toBe(true)
    })

    test('a result that can’t be stored waits for a human instead of losing its compensation', async (place) => {
      const odd = activity('odd', { execute: () => ({ variables: { f: () => {} } }) })
      const { bus, engine, slip, log } = world(place.outbox, [odd])
      await bus.start()
      await engine.emit(slip('a').add(odd, {}))
      await until(async () => (await place.outbox.stats()).dead === 1)
      await bus.stop()
      expect(log).toEqual(['a'])
      expect((await place.outbox.deadLetters.list()).letters[0]?.error).toContain("what can't be stored")
    })

    test('a permanent error skips the remaining attempts', async (place) => {
      let attempts = 0
      const hopeless = activity('hopeless', {
        execute() {
          attempts++
          throw new PermanentError('hopeless')
        },
      })
      const { bus, engine, slip, told, ended } = world(place.outbox, [hopeless])
      await bus.start()
      await engine.emit(slip('a').add(hopeless, {}))
      await ended()
      await bus.stop()
      expect(told).toEqual(['compensated: hopeless'])
      expect(attempts).toBe(1)
    })
  })
}
