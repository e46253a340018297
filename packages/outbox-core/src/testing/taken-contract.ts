import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { type PlaceTest, sleep } from './harness.ts'

/** What is handed over is taken at the call: an object that is changed afterwards changes nothing. */
export function takenContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('taken at the call', () => {
    test('payloads, headers and moments of events', async (place) => {
      const bus = new OutboxEventBus(place.outbox).use({ emit: () => sleep(5) })
      const given = () => ({
        payload: { list: [{ n: 1 }], text: 'before' },
        options: { headers: { tenant: 'before' }, deliverAt: new Date(Date.now() + 3_600_000), id: 'before' },
      })
      const changed: ReturnType<typeof given>[] = []
      const change = async (
        emitting: Promise<unknown>,
        ...all: ReturnType<typeof given>[]
      ): Promise<void> => {
        changed.push(...all)
        for (const { payload, options } of all) {
          payload.text = 'after'
          payload.list.push({ n: 2 })
          options.headers.tenant = 'after'
          options.deliverAt.setTime(0)
          options.id = 'after'
        }
        await emitting
      }
      const [one, two, three] = [given(), given(), given()]
      await change(bus.emit('one', one.payload, one.options), one)
      two.options.id = 'two'
      three.options.id = 'three'
      const many = [
        { type: 'two', payload: two.payload, ...two.options },
        { type: 'three', payload: three.payload, ...three.options },
      ]
      const emitting = bus.emitMany(many)
      many.pop()
      await change(emitting, two, three)
      const four = given()
      four.options.id = 'four'
      await place.outbox.transaction(() => change(bus.emit('four', four.payload, four.options), four))
      const events = (await place.events()).toSorted((a, b) => (a.id < b.id ? -1 : 1))
      expect(events.map(({ id }) => id)).toEqual(['before', 'four', 'three', 'two'])
      for (const { body, headers } of events) {
        expect(JSON.parse(body)).toEqual({ list: [{ n: 1 }], text: 'before' })
        expect(headers).toEqual({ tenant: 'before' })
      }
      // Nothing became due by the moment's being changed.
      expect(await place.outbox.stats()).toMatchObject({ due: 0 })
    })

    test('what a schema sees, however late it looks', async (place) => {
      const seen: unknown[] = []
      const schema = {
        '~standard': {
          version: 1 as const,
          vendor: 'test',
          validate(value: unknown) {
            seen.push(structuredClone(value))
            return { value }
          },
        },
      }
      const bus = new OutboxEventBus(place.outbox, { schemas: { a: schema } }).use({ emit: () => sleep(5) })
      const payload = { n: 1 }
      const emitting = bus.emit('a', payload)
      payload.n = 2
      await emitting
      expect(seen).toEqual([{ n: 1 }])
      expect(await place.events()).toMatchObject([{ body: '{"n":1}' }])
    })

    test('what a handler emits', async (place) => {
      const bus = new OutboxEventBus(place.outbox).use({
        emit: ({ type }) => (type === 'next' ? sleep(5) : undefined),
      })
      bus.on('work', (_, { emit }) => {
        const payload = { n: 1 }
        void emit('next', payload)
        payload.n = 2
      })
      await bus.start()
      await Promise.all([bus.emit('work', {}), bus.waitFor('work')])
      await bus.stop()
      expect(await place.events()).toMatchObject([{ type: 'next', body: '{"n":1}' }])
    })

    test('bytes of the store, small and large, compressed or not', async (place) => {
      const bytes: Record<string, number> = { small: 100, large: 300_000 }
      for (const compression of ['zstd', 'none'] as const) {
        const store = place.outbox.sagaStore('1h', { compression })
        for (const [size, length] of Object.entries(bytes)) {
          const putting = (id: string): Promise<void> => {
            const data = new Uint8Array(length).fill(1)
            const put = store.put(id, data)
            data.fill(2)
            return put
          }
          await Promise.all([putting(`${compression}-${size}-1`), putting(`${compression}-${size}-2`)])
          await place.outbox.transaction(() => putting(`${compression}-${size}-3`))
          for (const n of [1, 2, 3]) {
            const data = (await store.get(`${compression}-${size}-${n}`)) ?? new Uint8Array()
            expect([data.length, data.every((byte) => byte === 1)]).toEqual([length, true])
          }
        }
      }
    })

    test('slips: arguments, variables, headers', async (place) => {
      const seen: unknown[] = []
      const step = activity('step', {
        execute(args: { list: number[] }, { variables, headers }) {
          seen.push([args, variables, headers])
        },
      })
      const bus = new OutboxEventBus(place.outbox, { poll: { max: 50 } })
      const engine = new SagaEngine({ bus, store: place.outbox.sagaStore('1d'), activities: [step] })
      bus.use({ emit: () => sleep(5) })
      bus.on('saga.completed', () => {})
      const [args, variables, headers] = [{ list: [1] }, { order: { id: 'before' } }, { tenant: 'before' }]
      const emitting = engine.emit(routingSlip('test').variables(variables).add(step, args), { headers })
      args.list.push(2)
      variables.order.id = 'after'
      headers.tenant = 'after'
      await emitting
      await Promise.all([bus.start(), bus.waitFor('saga.completed')])
      await bus.stop()
      expect(seen).toEqual([[{ list: [1] }, { order: { id: 'before' } }, { tenant: 'before' }]])
    })

    test('an event emitted again with its keys in another order is the same event', async (place) => {
      const bus = new OutboxEventBus(place.outbox, { poll: { max: 50 } })
      const step = activity('step', { execute: (_: object) => {} })
      const engine = new SagaEngine({ bus, store: place.outbox.sagaStore('1d'), activities: [step] })
      const [one, same] = [
        { a: 1, b: { c: [{ x: 1, y: 2 }], d: null } },
        { b: { d: null, c: [{ y: 2, x: 1 }] }, a: 1 },
      ]
      const other = { a: 1, b: { c: [{ x: 2, y: 1 }], d: null } }
      const duplicate = { code: 'OUTBOX_DUPLICATE_EVENT' }
      await bus.emit('paid', one, { id: 'e' })
      await bus.emit('paid', same, { id: 'e' })
      await bus.emitMany([
        { type: 'paid', payload: same, id: 'e' },
        { type: 'paid', payload: one, id: 'e' },
      ])
      await place.outbox.transaction(() => bus.emit('paid', same, { id: 'e' }))
      await expect(bus.emit('paid', other, { id: 'e' })).rejects.toMatchObject(duplicate)
      const slip = (variables: object, args: object) =>
        routingSlip('test', 's')
          .variables({ ...variables })
          .add(step, args)
      await engine.emit(slip(one, same))
      await engine.emit(slip(same, one))
      await expect(engine.emit(slip(one, other))).rejects.toMatchObject(duplicate)
      expect(await place.events()).toHaveLength(2)
    })
  })
}
