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

    test('delays: not before, but then', async ({ outbox }) => {
      const bus = new OutboxEventBus(outbox, { poll: { max: 20 } })
      const seen: string[] = []
      bus.on('at', () => {
        seen.push('at')
      })
      bus.on('in', () => {
        seen.push('in')
      })
      bus.on('now', () => {
        seen.push('now')
      })
      await bus.start()
      await bus.emit('at', {}, { deliverAt: new Date(Date.now() + 300) })
      await bus.emit('in', {}, { delay: 150 })
      await bus.emit('now', {})
      await until(() => seen.length === 3)
      await bus.stop()
      expect(seen[0]).toBe('now')
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
