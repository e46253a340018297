import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { DuplicateEventError, EmptyItineraryError, PermanentError, UnknownActivityError } from '../errors.ts'
import type { Outbox } from '../outbox.ts'
import { type Activity, activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import type { SagaEvents } from '../saga/lifecycle.ts'
import { itinerary, routingSlip } from '../saga/routing-slip.ts'
import { type PlaceTest, sleep, until } from './harness.ts'

const RETRY = { maxAttempts: 3, delay: 1, maxDelay: 5 } as const

/** Sagas: transitions exactly once, compensations in exact reverse, payloads that live and die with their slips. */
export function sagaContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  function world(outbox: Outbox<Tx, O>, more: readonly Activity[] = []) {
    const log: string[] = []
    const broken = new Set<string>()
    const step = activity('step', {
      execute({ name, pad = '' }: { name: string; pad?: string }, { variables, step }) {
        log.push(name)
        if (broken.has(name)) throw new Error(`${name} is broken`)
        return {
          log: { undo: name },
          variables: { [`did-${step}`]: name, seen: Object.keys(variables).length, pad },
        }
      },
      compensate({ undo }) {
        log.push(`undo ${undo}`)
        if (broken.has(`undo ${undo}`)) throw new Error(`undo ${undo} is broken`)
      },
    })
    const bus = new OutboxEventBus<SagaEvents, Tx>(outbox as Outbox<Tx>, { poll: { max: 50 } })
    const store = outbox.sagaStore('1d')
    const engine = new SagaEngine({ bus, store, activities: [step, ...more], retry: RETRY })
    const told: string[] = []
    bus.on('saga.completed', ({ payload }) => void told.push(`completed ${payload.slipName}`))
    bus.on('saga.compensated', ({ payload }) => void told.push(`compensated: ${payload.fault.message}`))
    bus.on('saga.terminated', ({ payload }) => void told.push(`terminated: ${payload.reason}`))
    bus.on(
      'saga.compensationFailed',
      ({ payload }) => void told.push(`stuck in ${payload.activity}: ${payload.error}`),
    )
    const slip = (...names: string[]) =>
      names.reduce((building, name) => building.add(step, { name }), routingSlip('test'))
    const ended = (count = 1): Promise<void> => until(() => told.length >= count)
    return { log, broken, step, bus, engine, told, slip, ended }
  }

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
      await engine.emit(slip('a').add(waiting, {}).deadline(150))
      await ended()
      await engine.emit(slip('b').deadline(new Date(Date.now() - 1_000)))
      await ended(2)
      await bus.stop()
      expect(log).toEqual(['a', 'undo a'])
      expect(told).toEqual(
        Array.from({ length: 2 }, () => "compensated: the routing slip's deadline has passed"),
      )
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
      const watching = setInterval(async () => {
        most = Math.max(most, (await place.payloads().catch(() => [])).length)
      }, 1)
      await bus.start()
      await ended()
      clearInterval(watching)
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
      await place.outbox.storage.lease(1, 60_000)
      await place.expireLeases()
      await bus.start()
      await ended()
      await bus.stop()
      expect(log).toEqual(['a', 'b'])
    })

    test('an activity that kills its process every time is a fault, and the others are compensated', async (place) => {
      const { bus, engine, slip, log, told, ended } = world(place.outbox)
      await bus.start()
      await engine.emit(slip('a'))
      await ended()
      await bus.stop()
      await engine.emit(slip('b'))
      for (let death = 0; death < RETRY.maxAttempts; death++) {
        expect(await place.outbox.storage.lease(1, 60_000)).toHaveLength(1)
        await place.expireLeases()
      }
      await bus.start()
      await ended(2)
      await bus.stop()
      expect(log).toEqual(['a'])
      expect(told[1]).toContain('the process died in them')
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

    test('an unknown activity or an unreadable slip becomes a dead letter with the reason, never a crash', async (place) => {
      const stranger = activity('stranger', { execute: () => {} })
      const { engine } = world(place.outbox, [stranger])
      await engine.emit(routingSlip('test', 's1').add(stranger, {}))
      const other = new OutboxEventBus(place.outbox, { poll: { max: 50 } })
      const without = new SagaEngine({ bus: other, store: place.outbox.sagaStore('1d'), activities: [] })
      await other.emit('saga.step', { v: 99 })
      await other.emit('saga.step', null)
      await other.start()
      await until(async () => (await place.outbox.stats()).dead === 3)
      await other.stop()
      const errors = (await place.outbox.deadLetters.list()).letters.map(({ error }) => error).toSorted()
      expect(errors).toEqual([
        expect.stringContaining('OUTBOX_INVALID_SLIP'),
        expect.stringContaining('OUTBOX_INVALID_SLIP'),
        expect.stringContaining('OUTBOX_UNKNOWN_ACTIVITY'),
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
      const hopeless = activity('hopeless', {
        execute() {
          throw new PermanentError('hopeless')
        },
      })
      const { bus, engine, slip, told, ended } = world(place.outbox, [hopeless])
      await bus.start()
      await engine.emit(slip('a').add(hopeless, {}))
      await ended()
      await bus.stop()
      expect(told).toEqual(['compensated: hopeless'])
    })
  })
}
