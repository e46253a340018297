import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, sleep, until } from '../harness.ts'
import { FAR, inState, LEASE_MS, leased, rawEvent, settlement } from './fixtures.ts'

/** What a lease hands out, and what an extension may touch. */
export function leasingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('leasing', () => {
    test('keeps the longest id, type and headers that core lets through', async (place) => {
      const event = newEvent({
        id: Array.from({ length: 255 }, (_, index) => String.fromCharCode(0x21 + (index % 94))).join(''),
        type: `t${'.:/-_9Z'.repeat(19).slice(0, 127)}`,
        headers: Object.fromEntries(
          Array.from({ length: 80 }, (_, index) => [`${index}.${'n'.repeat(40)}`, 'ü'.repeat(25)]),
        ),
      })
      const { id, type, body, headers } = event
      await place.outbox.storage.write([appending(event)])
      expect(await place.events()).toEqual([{ id, type, body, headers, state: 'waiting', attempt: 0 }])
      const [first] = await place.outbox.storage.lease(1, LEASE_MS)
      expect(first).toMatchObject({ id, type, body, headers })
      expect(await place.outbox.storage.extend([{ id, attempt: 1 }], LEASE_MS)).toEqual([])
      expect(
        await place.outbox.storage.write([settling(settlement('complete', { id, attempt: 1 }))]),
      ).toEqual([{ status: 'applied' }])
    })

    test('tells the same event every time, whatever was done to the one before', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place, { headers: { tenant: 'a' } })
      await place.expireLeases()
      const [second] = await storage.lease(1, LEASE_MS)
      Object.assign(second?.headers ?? {}, { tenant: 'b', added: 'c' })
      await place.expireLeases()
      const [third] = await storage.lease(1, LEASE_MS)
      expect(third).toMatchObject({ id, attempt: 3, createdAt: second?.createdAt })
      expect(third?.headers).toEqual({ tenant: 'a' })
    })

    test('an attempt stays pardoned, also when the next one’s lease runs out', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place)
      await storage.write([
        settling({ kind: 'retry', id, attempt: 1, delayMs: 0, error: null, counted: false }),
      ])
      expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ attempt: 2, uncounted: 1 }])
      await place.expireLeases()
      expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ attempt: 3, uncounted: 1 }])
      await storage.write([
        settling({ kind: 'retry', id, attempt: 3, delayMs: 0, error: 'why', counted: true }),
      ])
      expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ attempt: 4, uncounted: 1 }])
    })

    test('a retry waits for its delay, and no longer', async (place) => {
      const { storage } = place.outbox
      const { id, attempt } = await leased(place)
      const startedAt = Date.now()
      await storage.write([
        settling({ kind: 'retry', id, attempt, delayMs: 300, error: 'why', counted: true }),
      ])
      await until(async () => (await storage.lease(1, LEASE_MS)).length === 1)
      // The database's clock and this process's may differ in how they round.
      expect(Date.now() - startedAt).toBeGreaterThanOrEqual(250)
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

    test('an extension names exactly the lost leases, and needs the right attempt number', async (place) => {
      const { storage } = place.outbox
      expect(await storage.extend([], LEASE_MS)).toEqual([])
      const { id } = await leased(place)
      expect(await storage.extend([{ id, attempt: 2 }], LEASE_MS)).toEqual([id])
      await place.expireLeases()
      expect(await storage.extend([{ id, attempt: 2 }], LEASE_MS)).toEqual([id])
      expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ id, attempt: 2 }])
    })

    test('hides an event for as long as was said, and as long as it was extended', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place)
      await sleep(50)
      expect(await storage.lease(1, 100)).toEqual([])
      await place.expireLeases()
      const [again] = await storage.lease(1, 100)
      expect(again).toMatchObject({ id, attempt: 2 })
      expect(await storage.extend([{ id, attempt: 2 }], LEASE_MS)).toEqual([])
      await sleep(200)
      expect(await storage.lease(1, LEASE_MS)).toEqual([])
    })

    test('an event whose lease has run out counts as due, not as leased', async (place) => {
      const { storage } = place.outbox
      await leased(place)
      await leased(place)
      await storage.write([appending(newEvent({ due: FAR }))])
      expect(await storage.stats()).toMatchObject({ due: 0, leased: 2, oldestDueMs: null })
      await place.expireLeases()
      expect(await storage.stats()).toMatchObject({ due: 2, leased: 0, oldestDueMs: expect.any(Number) })
      await storage.lease(1, LEASE_MS)
      expect(await storage.stats()).toMatchObject({ due: 1, leased: 1 })
    })
  })
}
