import { describe, expect } from 'vitest'
import { type PlaceTest, settling, takeDue, until } from '../harness.ts'
import { LEASE_MS, leased } from './fixtures.ts'

/** When an event is tried again, and whether the attempt before counts. */
export function retryingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('retrying', () => {
    test('an attempt stays pardoned, also when the next one’s lease runs out', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place)
      await storage.write([
        settling({ kind: 'retry', id, attempt: 1, delayMs: 0, error: null, counted: false }),
      ])
      expect(await takeDue(storage, 1, LEASE_MS)).toMatchObject([{ attempt: 2, uncounted: 1 }])
      await place.expireLeases()
      expect(await takeDue(storage, 1, LEASE_MS)).toMatchObject([{ attempt: 3, uncounted: 1 }])
      await storage.write([
        settling({ kind: 'retry', id, attempt: 3, delayMs: 0, error: 'why', counted: true }),
      ])
      expect(await takeDue(storage, 1, LEASE_MS)).toMatchObject([{ attempt: 4, uncounted: 1 }])
    })

    test('a retry waits for its delay, and no longer', async (place) => {
      const { storage } = place.outbox
      const { id, attempt } = await leased(place)
      const startedAt = Date.now()
      await storage.write([
        settling({ kind: 'retry', id, attempt, delayMs: 300, error: 'why', counted: true }),
      ])
      await until(async () => (await takeDue(storage, 1, LEASE_MS)).length === 1)
      // The database's clock and this process's may differ in how they round.
      expect(Date.now() - startedAt).toBeGreaterThanOrEqual(250)
    })
  })
}
