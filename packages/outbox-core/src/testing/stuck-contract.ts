import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { RetryLaterError } from '../delivering/attempt-errors.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { Itinerary } from '../saga/itinerary.ts'
import type { SagaEvents, SagaStuck } from '../saga/lifecycle.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import type { Place } from './backend.ts'
import { failingWrites, OwnStore, refusal } from './failing.ts'
import { type PlaceTest, until } from './harness.ts'

const RETRY = { maxAttempts: 2, delay: 1, maxDelay: 5 } as const

/** Slips whose activity has run, and whose outcome can't be written: nobody runs it again, nothing is compensated. */
export function stuckContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  /** An engine with two activities; the second one returns what `result` holds. */
  const opened = (place: Place<Tx, O>, store: OwnStore | undefined, maxPayloadBytes = 50_000) => {
    const log: string[] = []
    const stuck: SagaStuck[] = []
    const ends: string[] = []
    const result: { current: object } = { current: {} }
    const first = activity('first', {
      execute(_: object) {
        log.push('first')
        return { log: { n: 1 } }
      },
      compensate: () => void log.push('undo first'),
    })
    const second = activity('second', {
      execute(_: object, { attempt }) {
        log.push(`second ${attempt}`)
        return result.current as { variables?: Record<string, unknown> }
      },
      compensate: () => void log.push('undo second'),
    })
    const last = activity('last', { execute: (_: object) => void log.push('last') })
    const bus = new OutboxEventBus<SagaEvents, Tx>(place.outbox as never, { poll: { max: 50 } })
    bus.on('saga.stuck', ({ payload }) => void stuck.push(payload))
    for (const kind of ['completed', 'compensated'] as const)
      bus.on(`saga.${kind}`, () => void ends.push(kind))
    const engine = new SagaEngine({
      bus,
      store: store ?? place.outbox.sagaStore('1d', { compression: 'none', maxPayloadBytes }),
      activities: [first, second, last],
      retry: RETRY,
      claims: { threshold: store ? 0 : 10_000, ttl: '1d' },
    })
    const slip = routingSlip('test').add(first, {}).add(second, {}).add(last, {})
    return { bus, engine, slip, log, stuck, ends, result }
  }

  describe('a slip whose activity has run', () => {
    const results: readonly (readonly [string, object, string])[] = [
      [
        'to an activity that nobody knows',
        { revise: new Itinerary([{ activity: 'gone', args: {} }]) },
        'gone',
      ],
      ['to what is no itinerary', { revise: [{ activity: 'last' }] }, 'no itinerary'],
      ['with variables that are no object', { variables: 'text' }, 'no object'],
      ['with variables that are a list', { variables: [1] }, 'no object'],
      ['with what JSON can’t hold', { variables: { big: 1n } }, '$.variables.big'],
      ['with a log that JSON can’t hold', { log: { on: new Map() } }, '$.log.on'],
      ['with more than its store takes', { variables: { pad: 'x'.repeat(60_000) } }, '50000'],
    ]
    for (const [what, returned, reason] of results) {
      test(`${what} waits as a dead letter with the true cause, and goes on once that is mended`, async (place) => {
        const { bus, engine, slip, log, stuck, ends, result } = opened(place, undefined)
        result.current = returned
        await bus.start()
        const id = await engine.emit(slip)
        await until(() => stuck.length === 1)
        expect(log).toEqual(['first', 'second 1'])
        const { letters } = await place.outbox.deadLetters.list()
        expect(letters).toMatchObject([{ routingSlipId: id, error: expect.stringContaining(reason) }])
        expect(stuck).toMatchObject([
          { slipId: id, step: 1, activity: 'second', error: expect.stringContaining(reason) },
        ])
        result.current = {}
        expect(await engine.resume(id)).toBe(true)
        await until(() => ends.length === 1)
        await bus.stop()
        expect(log).toEqual(['first', 'second 1', 'second 1', 'last'])
        expect(ends).toEqual(['completed'])
        expect([await place.events(), await place.payloads()]).toEqual([[], []])
      })
    }

    test('and whose outcome the database refuses waits as a dead letter, too', async (place) => {
      const { bus, engine, slip, log, stuck, ends } = opened(place, undefined)
      let refusing = true
      failingWrites(place.outbox.storage, ({ settle, append }) => {
        const isSecond = append.some(({ body }) => body.includes('"step":2'))
        return refusing && settle?.kind === 'complete' && isSecond ? refusal() : undefined
      })
      await bus.start()
      const id = await engine.emit(slip)
      await until(() => stuck.length === 1)
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters).toMatchObject([{ routingSlipId: id, error: expect.stringContaining('refused') }])
      expect(stuck).toMatchObject([
        { slipId: id, step: 1, activity: 'second', error: expect.stringContaining('refused') },
      ])
      expect(log).toEqual(['first', 'second 1'])
      refusing = false
      expect(await engine.resume(id)).toBe(true)
      await until(() => ends.length === 1)
      await bus.stop()
      expect(log).toEqual(['first', 'second 1', 'second 1', 'last'])
      expect(ends).toEqual(['completed'])
    })
  })

  describe('a slip in a store of the user’s own', () => {
    test('that is down after an activity has run: not run again, not compensated, goes on when it is back', async (place) => {
      const store = new OwnStore()
      const { bus, engine, slip, log, ends } = opened(place, store)
      let failed = 0
      const { put } = store
      store.put = async (...record) => {
        if (log.at(-1) !== 'second 1' || failed >= 3) return put.apply(store, record)
        failed++
        throw new Error('the store is down')
      }
      await bus.start()
      await engine.emit(slip)
      await until(() => ends.length === 1)
      await until(() => store.payloads.size === 0)
      await bus.stop()
      expect(failed).toBe(3)
      expect(log).toEqual(['first', 'second 1', 'last'])
      expect(ends).toEqual(['completed'])
      expect(await place.events()).toEqual([])
    })

    test('that is down before an activity: not counted, and called once it is back', async (place) => {
      const store = new OwnStore()
      const { bus, engine, slip, log, ends } = opened(place, store)
      await engine.emit(slip)
      store.down = true
      await bus.start()
      await until(async () => (await place.events()).some(({ attempt }) => attempt > RETRY.maxAttempts + 1))
      expect(log).toEqual([])
      store.down = false
      await until(() => ends.length === 1)
      await bus.stop()
      expect(log).toEqual(['first', 'second 1', 'last'])
    })

    test('is kept over a wait that is longer than its time to live', async (place) => {
      const store = new OwnStore()
      const bus = new OutboxEventBus(place.outbox, { poll: { max: 50 } })
      const waits = activity('waits', {
        execute(_: object) {
          throw new RetryLaterError('not before tomorrow', '1d')
        },
      })
      const claims = { threshold: 0, ttl: '1h' } as const
      const engine = new SagaEngine({ bus, store, activities: [waits], retry: RETRY, claims })
      await engine.emit(routingSlip('test').add(waits, {}))
      const [put] = store.payloads.values()
      await bus.start()
      await until(
        async () =>
          (await place.events())[0]?.state === 'waiting' && (await place.events())[0]?.attempt === 1,
      )
      await bus.stop()
      const [kept, ...others] = store.payloads.values()
      expect(others).toEqual([])
      expect((kept?.expiresAt.getTime() ?? 0) - (put?.expiresAt.getTime() ?? 0)).toBeGreaterThan(
        23 * 3_600_000,
      )
      expect(kept?.data).toEqual(put?.data)
    })

    test('that does not answer when a slip is to be kept longer holds up neither a retry nor a burial', async (place) => {
      const store = new OwnStore()
      const bus = new OutboxEventBus<SagaEvents, Tx>(place.outbox as never, {
        lease: '300ms',
        poll: { max: 20 },
      })
      const stuck: SagaStuck[] = []
      bus.on('saga.stuck', ({ payload }) => void stuck.push(payload))
      const waits = activity('waits', {
        execute(_: { readonly pad: string }) {
          throw new RetryLaterError('not yet', '50m')
        },
      })
      const broken = activity('broken', {
        execute: (_: { readonly pad: string }) => ({ log: { on: new Map() } }),
        compensate() {},
      })
      const claims = { threshold: 400, ttl: '1h' } as const
      const activities = [waits, broken]
      const engine = new SagaEngine({ bus, store, activities, retry: RETRY, claims })
      const pad = 'x'.repeat(1_000)
      await engine.emit(routingSlip('test').add(waits, { pad }))
      const id = await engine.emit(routingSlip('test').add(broken, { pad }))
      store.put = () => new Promise(() => {})
      await bus.start()
      await until(() => stuck.length === 1)
      await until(async () => {
        const states = (await place.events()).map(({ state, attempt }) => `${state} ${attempt}`)
        return ['dead 1', 'waiting 1'].every((state) => states.includes(state))
      })
      await bus.stop()
      expect(stuck).toMatchObject([{ slipId: id, activity: 'broken' }])
    })

    test('is kept anew when its slip becomes a dead letter', async (place) => {
      const store = new OwnStore()
      const { bus, engine, slip, stuck, result } = opened(place, store)
      result.current = { variables: { big: 1n } }
      const puts: string[] = []
      const { put } = store
      store.put = (id, data, expiresAt) => {
        puts.push(id)
        return put.call(store, id, data, expiresAt)
      }
      await bus.start()
      const id = await engine.emit(slip)
      await until(() => stuck.length === 1)
      await bus.stop()
      const dead = (await place.events()).find(({ state }) => state === 'dead')
      const claim = dead?.headers['outbox-claim']
      expect(puts.filter((put) => put === claim)).toHaveLength(2)
      expect(store.payloads.has(claim ?? '')).toBe(true)
      expect(id).toBe(stuck[0]?.slipId)
    })
  })
}
