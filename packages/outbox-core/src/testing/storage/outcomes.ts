import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, payload, settling, takeDue } from '../harness.ts'
import {
  eventIds,
  FAR,
  LEASE_MS,
  leased,
  leasedTwice,
  payloadTexts,
  putting,
  rawEvent,
  settlement,
} from './fixtures.ts'

/** The one write: every outcome entirely or not at all, whatever becomes of the others. */
export function outcomeContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('outcomes', () => {
    test('settle, append, put and remove together', async (place) => {
      const { storage } = place.outbox
      await storage.write([putting(payload('old', 'old'))])
      const lease = await leased(place)
      const outcome = settling(settlement('complete', lease), {
        append: [newEvent({ id: 'next' })],
        put: [payload('new', 'new')],
        remove: ['old'],
      })
      expect(await storage.write([outcome])).toEqual([{ status: 'applied' }])
      expect(await eventIds(place)).toEqual(['next'])
      expect(await payloadTexts(place)).toEqual({ new: 'new' })
    })

    test('lease what they append to the worker that settles, where it says so', async (place) => {
      const { storage } = place.outbox
      const lease = await leased(place)
      const next = { ...newEvent(), due: { inMs: LEASE_MS }, leased: true }
      const other = newEvent({ due: FAR })
      const outcome = settling(settlement('complete', lease), { append: [other, next] })
      expect(await storage.write([outcome])).toEqual([{ status: 'applied' }])
      expect(await rawEvent(place, next.id)).toMatchObject({ state: 'leased', attempt: 1 })
      expect(await rawEvent(place, other.id)).toMatchObject({ state: 'waiting', attempt: 0 })
      expect(await storage.stats()).toMatchObject({ due: 0, leased: 1 })
      expect(await takeDue(storage, 10, LEASE_MS)).toEqual([])
      const held = { id: next.id, attempt: 1 }
      expect(await storage.extend([held], LEASE_MS)).toEqual([])
      await place.expireLeases()
      expect(await takeDue(storage, 10, LEASE_MS)).toMatchObject([{ ...held, attempt: 2, body: next.body }])
      expect(await storage.write([settling(settlement('complete', held))])).toEqual([{ status: 'lost' }])
    })

    test('of one batch are applied, lost or duplicate, and only the applied ones show', async (place) => {
      const { storage } = place.outbox
      const ids = ['for-lost', 'for-duplicate', 'for-applied', 'for-settled', 'shared']
      await storage.write([putting(...ids.map((id) => payload(id, 'before')))])
      await storage.write([appending(newEvent({ id: 'taken', due: FAR, fingerprint: 'first' }))])
      const { older: stale, newer: held } = await leasedTwice(place)
      const finished = await leased(place)
      const next = (id: string) => newEvent({ id, due: FAR })
      const results = await storage.write([
        settling(settlement('bury', stale), {
          append: [next('a'), next('b')],
          put: [payload('shared', 'lost')],
          remove: ['for-lost'],
        }),
        {
          append: [newEvent({ id: 'taken', fingerprint: 'second' })],
          put: [payload('fresh', 'duplicate')],
          remove: ['for-duplicate'],
        },
        { append: [next('c'), next('d')], put: [payload('kept', 'applied')], remove: ['for-applied'] },
        settling(settlement('complete', finished), {
          append: [next('e')],
          put: [payload('step', 'settled')],
          remove: ['for-settled'],
        }),
        appending(newEvent({ id: 'new', due: FAR, fingerprint: 'third' })),
      ])
      expect(results).toEqual([
        { status: 'lost' },
        { status: 'duplicate', fingerprint: 'first' },
        { status: 'applied' },
        { status: 'applied' },
        { status: 'applied' },
      ])
      expect(await eventIds(place)).toEqual(['c', 'd', 'e', 'new', 'taken', stale.id].sort())
      expect(await rawEvent(place, stale.id)).toMatchObject({ state: 'leased', attempt: held.attempt })
      expect(await payloadTexts(place)).toEqual({
        'for-lost': 'before',
        'for-duplicate': 'before',
        shared: 'before',
        kept: 'applied',
        step: 'settled',
      })
    })

    test('of a large batch, of every kind, each get their own result', async (place) => {
      const { storage } = place.outbox
      await storage.write(Array.from({ length: 40 }, () => appending(newEvent())))
      const leases = await takeDue(storage, 40, LEASE_MS)
      expect(leases).toHaveLength(40)
      const results = await storage.write(
        leases.map(({ id, attempt }, index) => {
          const append = [newEvent({ id: `next-${index}` })]
          const put = [payload(`claim-${index}`, `payload ${index}`)]
          if (index % 4 === 0)
            return settling(settlement('complete', { id, attempt: attempt + 1 }), { append, put })
          if (index % 4 === 1) return settling(settlement('retry', { id, attempt }))
          if (index % 4 === 2) return settling(settlement('bury', { id, attempt }), { append })
          return settling(settlement('complete', { id, attempt }), { append, put })
        }),
      )
      expect(results.map(({ status }) => status)).toEqual(
        leases.map((_, index) => (index % 4 === 0 ? 'lost' : 'applied')),
      )
      const states = (await place.events()).map(({ id, state }) => (id.startsWith('next') ? 'next' : state))
      const count = (state: string): number => states.filter((candidate) => candidate === state).length
      expect([count('leased'), count('waiting'), count('dead'), count('next')]).toEqual([10, 10, 10, 20])
      expect(await place.payloads()).toHaveLength(10)
    })

    test('that are repeated are lost, and nothing of them is applied twice', async (place) => {
      const { storage } = place.outbox
      const outcome = settling(settlement('complete', await leased(place)), {
        append: [newEvent({ id: 'next' })],
        put: [payload('claim', 'x')],
        remove: ['next-claim'],
      })
      expect(await storage.write([outcome])).toEqual([{ status: 'applied' }])
      // The next step has run by now.
      expect(await takeDue(storage, 1, LEASE_MS)).toMatchObject([{ id: 'next', attempt: 1 }])
      await storage.write([
        settling(settlement('complete', { id: 'next', attempt: 1 }), {
          put: [payload('next-claim', 'y')],
          remove: ['claim'],
        }),
      ])
      expect(await storage.write([outcome])).toEqual([{ status: 'lost' }])
      expect(await place.events()).toEqual([])
      expect(await payloadTexts(place)).toEqual({ 'next-claim': 'y' })
    })

    test('that are both lost and duplicate are lost', async (place) => {
      const { storage } = place.outbox
      const named = newEvent({ due: FAR, fingerprint: 'first' })
      const step = settling(settlement('complete', await leased(place)), { append: [named] })
      expect(await storage.write([step])).toEqual([{ status: 'applied' }])
      const held = await leased(place)
      await storage.write([putting(payload('kept', 'before'))])
      const before = await place.events()
      for (const fingerprint of ['first', 'second']) {
        const stale = settling(settlement('retry', { ...held, attempt: held.attempt + 1 }), {
          append: [{ ...named, fingerprint }],
          put: [payload('kept', 'after'), payload('stray', 'x')],
        })
        expect(await storage.write([stale]), fingerprint).toEqual([{ status: 'lost' }])
        const batch = [putting(payload('other', 'x')), stale]
        expect(await storage.write(batch), fingerprint).toEqual([{ status: 'applied' }, { status: 'lost' }])
      }
      expect(await storage.write([step])).toEqual([{ status: 'lost' }])
      expect(await place.events()).toEqual(before)
      expect(await payloadTexts(place)).toEqual({ kept: 'before', other: 'x' })
    })

    test('that are duplicate leave their lease as it was', async (place) => {
      const { storage } = place.outbox
      const named = newEvent({ due: FAR, fingerprint: 'first' })
      await storage.write([appending(named), putting(payload('old', 'old'))])
      const lease = await leased(place)
      const other = await leased(place)
      for (const kind of ['complete', 'retry', 'bury'] as const) {
        const step = settling(settlement(kind, lease), {
          append: [{ ...named, fingerprint: 'second' }],
          put: [payload('new', 'x')],
          remove: ['old'],
        })
        expect(await storage.write([step])).toEqual([{ status: 'duplicate', fingerprint: 'first' }])
      }
      const results = await storage.write([
        settling(settlement('complete', lease), { append: [named] }),
        settling(settlement('complete', other), { append: [newEvent({ id: 'next', due: FAR })] }),
      ])
      expect(results).toEqual([{ status: 'duplicate', fingerprint: 'first' }, { status: 'applied' }])
      expect(await eventIds(place)).toEqual([named.id, lease.id, 'next'].sort())
      expect(await rawEvent(place, lease.id)).toMatchObject({ state: 'leased', attempt: 1 })
      expect(await payloadTexts(place)).toEqual({ old: 'old' })
      const fresh = settling(settlement('complete', lease), { append: [newEvent({ fingerprint: 'new' })] })
      expect(await storage.write([fresh])).toEqual([{ status: 'applied' }])
      expect(await rawEvent(place, lease.id)).toBeUndefined()
    })

    test('that are none write nothing', async ({ outbox, events }) => {
      expect(await outbox.storage.write([])).toEqual([])
      expect(await events()).toEqual([])
    })
  })
}
