import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, sleep, takeDue } from '../harness.ts'
import { inState, LEASE_MS, leased, rawEvent, settlement } from './fixtures.ts'

/** Which leases an extension may touch, and for how long. */
export function extendingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('extending', () => {
    test('extends leases that are held, and names those that are not', async (place) => {
      const { storage } = place.outbox
      await storage.write([appending(newEvent({ id: 'a' })), appending(newEvent({ id: 'b' }))])
      const [a, b] = await takeDue(storage, 2, LEASE_MS)
      if (!a || !b) throw new Error('two events were written')
      expect(await storage.extend([a, b], LEASE_MS)).toEqual([])
      await place.expireLeases()
      expect(await storage.extend([a], LEASE_MS)).toEqual([])
      const [retaken] = await takeDue(storage, 2, LEASE_MS)
      expect(retaken).toMatchObject({ id: 'b', attempt: 2 })
      expect(await storage.extend([a, b, { id: 'none', attempt: 1 }], LEASE_MS)).toEqual(['b', 'none'])
      await storage.write([settling(settlement('keep', a))])
      expect(await storage.extend([a], LEASE_MS)).toEqual(['a'])
    })

    test('an extension names exactly the lost leases, and needs the right attempt number', async (place) => {
      const { storage } = place.outbox
      expect(await storage.extend([], LEASE_MS)).toEqual([])
      const { id } = await leased(place)
      expect(await storage.extend([{ id, attempt: 2 }], LEASE_MS)).toEqual([id])
      await place.expireLeases()
      expect(await storage.extend([{ id, attempt: 2 }], LEASE_MS)).toEqual([id])
      expect(await takeDue(storage, 1, LEASE_MS)).toMatchObject([{ id, attempt: 2 }])
    })

    test.each(
      'does not extend an event that is %s',
      ['waiting', 'done', 'dead'] as const,
      async (place, state) => {
        const lease = await inState(place, state)
        expect(await place.outbox.storage.extend([lease], LEASE_MS)).toEqual([lease.id])
        expect(await rawEvent(place, lease.id)).toMatchObject({ state, attempt: lease.attempt })
        expect((await place.outbox.stats()).leased).toBe(0)
      },
    )

    test('hides an event for as long as was said, and as long as it was extended', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place)
      await sleep(50)
      expect(await takeDue(storage, 1, 100)).toEqual([])
      await place.expireLeases()
      const [again] = await takeDue(storage, 1, 100)
      expect(again).toMatchObject({ id, attempt: 2 })
      expect(await storage.extend([{ id, attempt: 2 }], LEASE_MS)).toEqual([])
      await sleep(200)
      expect(await takeDue(storage, 1, LEASE_MS)).toEqual([])
    })
  })
}
