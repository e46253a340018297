import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, takeDue } from '../harness.ts'
import { FAR, LEASE_MS, leased, settlement } from './fixtures.ts'

const EMPTY = { due: 0, dueByAddress: {}, leased: 0, dead: 0, blocked: 0, oldestDueMs: null }

/** How many events are due, leased and dead. */
export function statsContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('stats', () => {
    test('counts due, leased and dead events', async (place) => {
      const { storage } = place.outbox
      expect(await storage.stats()).toEqual(EMPTY)
      const overdue = newEvent({ due: { at: Date.now() - 5_000 } })
      await storage.write([
        appending(newEvent({ id: 'dead', due: { at: Date.now() - 20_000 } })),
        appending(newEvent({ id: 'leased', due: { at: Date.now() - 10_000 } })),
        appending(overdue),
        appending(newEvent({ due: FAR })),
      ])
      await takeDue(storage, 2, LEASE_MS)
      await storage.write([settling(settlement('bury', { id: 'dead', attempt: 1 }))])
      const stats = await storage.stats()
      expect(stats).toMatchObject({ due: 1, leased: 1, dead: 1, dueByAddress: { 'test.event': 1 } })
      expect(stats.oldestDueMs).toBeGreaterThanOrEqual(4_000)
      expect(stats.oldestDueMs).toBeLessThan(60_000)
    })

    test('counts inside a transaction, without waiting for it', async (place) => {
      const { storage } = place.outbox
      await leased(place)
      await storage.transaction(async (tx) => {
        await storage.write([appending(newEvent({ due: FAR }))], tx)
        expect(await storage.stats(tx)).toEqual({ ...EMPTY, leased: 1 })
      })
    })

    test('an event whose lease has run out counts as due, not as leased', async (place) => {
      const { storage } = place.outbox
      await leased(place)
      await leased(place)
      await storage.write([appending(newEvent({ due: FAR }))])
      expect(await storage.stats()).toMatchObject({ due: 0, leased: 2, oldestDueMs: null })
      await place.expireLeases()
      expect(await storage.stats()).toMatchObject({ due: 2, leased: 0, oldestDueMs: expect.any(Number) })
      await takeDue(storage, 1, LEASE_MS)
      expect(await storage.stats()).toMatchObject({ due: 1, leased: 1 })
    })
  })
}
