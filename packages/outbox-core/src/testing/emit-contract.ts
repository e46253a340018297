import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import {
  DuplicateEventError,
  EventTooLargeError,
  InvalidEventError,
  NotSerializableError,
} from '../errors.ts'
import { type PlaceTest, until } from './harness.ts'

/** Emitting: what is refused is refused before anything is written, and an id of one's own makes it repeatable. */
export function emitContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('emit', () => {
    test('drops the same event under the same id, and refuses another one', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox)
      const event = { amount: 1, text: 'ü' }
      expect(await bus.emit('paid', event, { id: 'payment-1' })).toBe('payment-1')
      expect(await bus.emit('paid', { ...event }, { id: 'payment-1' })).toBe('payment-1')
      await expect(bus.emit('paid', { amount: 2 }, { id: 'payment-1' })).rejects.toThrow(DuplicateEventError)
      await expect(bus.emit('other', event, { id: 'payment-1' })).rejects.toThrow(DuplicateEventError)
      expect(await events()).toMatchObject([{ id: 'payment-1', type: 'paid', body: JSON.stringify(event) }])
    })

    test('the same inside transactions', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox)
      await outbox.transaction(async () => {
        await bus.emit('paid', { amount: 1 }, { id: 'a' })
        await bus.emit('paid', { amount: 1 }, { id: 'a' })
      })
      await outbox.transaction(async () => {
        await bus.emit('paid', { amount: 1 }, { id: 'a' })
        await bus.emit('paid', { amount: 1 }, { id: 'b' })
      })
      const failing = outbox.transaction(async () => {
        await bus.emit('paid', { amount: 3 }, { id: 'c' })
        await bus.emit('paid', { amount: 2 }, { id: 'a' })
      })
      await expect(failing).rejects.toThrow(DuplicateEventError)
      expect((await events()).map(({ id }) => id).toSorted()).toEqual(['a', 'b'])
    })

    test('emitMany stores all or none', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox)
      await bus.emit('paid', { n: 0 }, { id: 'taken' })
      const clash = bus.emitMany([
        { type: 'paid', payload: { n: 1 } },
        { type: 'paid', payload: { n: 2 }, id: 'free' },
        { type: 'paid', payload: { n: 3 }, id: 'taken' },
      ])
      await expect(clash).rejects.toThrow(DuplicateEventError)
      const bad = bus.emitMany([
        { type: 'paid', payload: { n: 1 } },
        { type: 'paid', payload: { n: Number.NaN } },
      ])
      await expect(bad).rejects.toThrow(NotSerializableError)
      expect((await events()).map(({ id }) => id)).toEqual(['taken'])
      expect(await bus.emitMany([])).toEqual([])
      const ids = await bus.emitMany([
        { type: 'a', payload: 1 },
        { type: 'b', payload: 2, id: 'mine' },
        { type: 'b', payload: 2, id: 'mine' },
      ])
      expect(ids).toEqual([expect.any(String), 'mine', 'mine'])
      expect(await events()).toHaveLength(3)
    })

    test('side by side: each is stored, refused or dropped by itself, and they share round trips', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const once = async (work: () => Promise<unknown>): Promise<number> => {
        const before = place.roundTrips()
        await work()
        return place.roundTrips() - before
      }
      const { writesTogether, idsAreFree } = outbox.storage
      // A storage may note an address when it is first written to.
      for (const type of ['unnamed', 'paid']) await bus.emit(type, {})
      const nameless = () => Promise.all(Array.from({ length: 20 }, (_, n) => bus.emit('unnamed', { n })))
      const alone = await once(() => bus.emit('unnamed', { n: 0 }))
      if (writesTogether) expect(await once(nameless)).toBeLessThan(10)
      else expect(await once(nameless)).toBe(20 * alone)
      const one = await once(() => bus.emit('paid', { n: 0 }, { id: 'taken' }))
      const emits = (from: number) =>
        Array.from({ length: 20 }, (_, n) => bus.emit('paid', { n: from + n }, { id: `paid-${from + n}` }))
      const twenty = await once(() => Promise.all(emits(0)))
      // Where somebody's transaction may hold an id, whoever writes it is to wait alone.
      if (writesTogether && idsAreFree) expect(twenty).toBeLessThan(10)
      else expect(twenty).toBe(20 * one)
      const others = ['taken', 'paid-20', 'paid-0'].map((id) => bus.emit('paid', { n: 20 }, { id }))
      const results = await Promise.allSettled([...emits(20), ...others])
      const refused = results.filter(({ status }) => status === 'rejected')
      expect(refused).toMatchObject([
        { reason: { name: 'DuplicateEventError', eventId: 'taken' } },
        { reason: { name: 'DuplicateEventError', eventId: 'paid-0' } },
      ])
      const named = (await place.events()).filter(({ id }) => /^(taken|paid-\d+)$/.test(id))
      expect(named.map(({ id }) => id).toSorted()).toEqual(
        ['taken', ...Array.from({ length: 40 }, (_, n) => `paid-${n}`)].toSorted(),
      )
    })

    test('delays: not before, but then', async ({ outbox }) => {
      const bus = new OutboxEventBus(outbox, { poll: { max: 20 } })
      const seenAt = new Map<string, number>()
      for (const type of ['at', 'in', 'now']) {
        bus.on(type, () => {
          seenAt.set(type, Date.now())
        })
      }
      await bus.start()
      const begun = Date.now()
      await bus.emit('at', {}, { deliverAt: new Date(begun + 1_000) })
      await bus.emit('in', {}, { delay: 500 })
      await bus.emit('now', {})
      const emitted = Date.now()
      await until(() => seenAt.size === 3)
      await bus.stop()
      // A database rounds to milliseconds.
      expect(seenAt.get('at')).toBeGreaterThanOrEqual(begun + 999)
      expect(seenAt.get('in')).toBeGreaterThanOrEqual(begun + 499)
      // On a busy machine the last one may have been emitted after the others were due.
      if (emitted < begun + 400) expect(seenAt.keys().next().value).toBe('now')
    })

    test('refuses bad input before anything is written', async (place) => {
      const bus = new OutboxEventBus(place.outbox)
      const cycle: Record<string, unknown> = {}
      cycle['self'] = { cycle }
      const before = place.roundTrips()
      const refused: [() => Promise<unknown>, unknown][] = [
        [() => bus.emit('', {}), InvalidEventError],
        [() => bus.emit("x'; DROP TABLE outbox_events; --", {}), InvalidEventError],
        [() => bus.emit('a', {}, { id: '' }), InvalidEventError],
        [() => bus.emit('a', {}, { id: 'x'.repeat(256) }), InvalidEventError],
        [() => bus.emit('a', {}, { headers: { 'outbox-claim': 'x' } }), InvalidEventError],
        [() => bus.emit('a', {}, { headers: { a: 1 as unknown as string } }), InvalidEventError],
        [() => bus.emit('a', {}, { headers: { a: 'x'.repeat(9000) } }), InvalidEventError],
        [() => bus.emit('a', {}, { delay: -1 }), { code: 'OUTBOX_CONFIGURATION' }],
        [() => bus.emit('a', {}, { delay: 1, deliverAt: new Date() }), InvalidEventError],
        [() => bus.emit('a', {}, { deliverAt: new Date(Number.NaN) }), InvalidEventError],
        [() => bus.emit('a', { list: [{ big: 1n }] }), { path: '$.list[0].big' }],
        [() => bus.emit('a', cycle), { path: '$.self.cycle' }],
        [() => bus.emit('a', { f: () => {} }), { path: '$.f' }],
        [() => bus.emit('a', [Number.NaN]), { path: '$[0]' }],
        [() => bus.emit('a', { at: new Date(Number.NaN) }), { path: '$.at' }],
        [() => bus.emit('a', JSON.parse('{"__proto__": {"admin": true}}')), NotSerializableError],
        [() => bus.emit('a', { text: 'x'.repeat(300_000) }), EventTooLargeError],
      ]
      for (const [emit, expected] of refused) {
        const assertion = expect(emit()).rejects
        await (typeof expected === 'function'
          ? assertion.toThrow(expected as typeof Error)
          : assertion.toMatchObject(expected as object))
      }
      expect(place.roundTrips()).toBe(before)
      expect(await place.events()).toEqual([])
    })

    test('takes the largest event allowed and refuses one byte more', async ({ outbox, events }) => {
      const bus = new OutboxEventBus(outbox)
      const sized = (bytes: number): string => 'x'.repeat(bytes - 2)
      const limit = outbox.maxEventBytes
      await bus.emit('a', sized(limit - 1))
      await bus.emit('a', sized(limit))
      await expect(bus.emit('a', sized(limit + 1))).rejects.toMatchObject({ limit, actual: limit + 1 })
      expect(await events()).toHaveLength(2)
    })
  })
}
