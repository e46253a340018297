import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, sleep } from '../harness.ts'
import { inState, leased, rawEvent, settlement } from './fixtures.ts'

/** How long a completed event stays, said again later. */
export function keepingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('keep', () => {
    test('a completed event stays for as long as was said last', async (place) => {
      const { storage } = place.outbox
      const lease = await leased(place)
      await storage.write([settling({ kind: 'complete', ...lease, keepMs: 50 })])
      await storage.keep(lease.id, 3_600_000)
      await sleep(60)
      expect((await storage.purge(10)).events).toBe(0)
      expect(await rawEvent(place, lease.id)).toMatchObject({ state: 'done' })
      await storage.keep(lease.id, 1)
      await sleep(20)
      expect((await storage.purge(10)).events).toBe(1)
      expect(await rawEvent(place, lease.id)).toBeUndefined()
    })

    test('still guards its id', async (place) => {
      const { storage } = place.outbox
      const named = newEvent({ id: 'named', fingerprint: 'one' })
      const lease = await leased(place, named)
      await storage.write([settling(settlement('keep', lease))])
      await storage.keep('named', 3_600_000)
      expect(await storage.write([appending(named)])).toEqual([{ status: 'duplicate', fingerprint: 'one' }])
    })

    test('does nothing to an event that is missing or in another state', async (place) => {
      const { storage } = place.outbox
      await storage.keep('missing', 1)
      expect(await place.events()).toEqual([])
      for (const state of ['dead', 'leased', 'waiting'] as const) {
        const { id } = await inState(place, state)
        const before = await rawEvent(place, id)
        await storage.keep(id, 1)
        expect(await rawEvent(place, id)).toEqual(before)
      }
      await sleep(20)
      expect((await storage.purge(10)).events).toBe(0)
      expect(await storage.stats()).toMatchObject({ due: 0, leased: 1, dead: 1 })
    })
  })
}
