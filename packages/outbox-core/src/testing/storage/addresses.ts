import { describe, expect } from 'vitest'
import type { LeasedEvent, LeaseRequest, Storage } from '../../storage.ts'
import { appending, newEvent, type PlaceTest } from '../harness.ts'
import { FAR, LEASE_MS } from './fixtures.ts'

/** What a lease hands out by address. */
export function addressContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('addresses', () => {
    test('takes the addresses that are asked for, and tells each event’s', async ({
      outbox: { storage },
    }) => {
      await storage.write([
        appending(newEvent({ id: 'a', type: 'a' })),
        appending(newEvent({ id: 'to-x', type: 'a', address: 'a#x' })),
        appending(newEvent({ id: 'to-y', type: 'a', address: 'a#y#z' })),
        appending(newEvent({ id: 'b', type: 'b' })),
      ])
      expect(await lease(storage, { 'a#x': 10, c: 10 })).toMatchObject([
        { id: 'to-x', type: 'a', address: 'a#x', key: null },
      ])
      expect(ids(await lease(storage, { a: 10, b: 10 }))).toEqual(['a', 'b'])
      expect(ids(await lease(storage, { a: 10, b: 10, 'a#x': 10 }))).toEqual([])
      expect(ids(await lease(storage, { 'a#y#z': 10 }))).toEqual(['to-y'])
    })

    test('takes the oldest of all that are asked for', async ({ outbox: { storage } }) => {
      const now = Date.now()
      for (const [n, type] of ['b', 'a', 'c', 'a', 'b', 'c'].entries())
        await storage.write([appending(newEvent({ id: `${n}`, type, due: { at: now - 10_000 + n } }))])
      expect(ids(await lease(storage, { a: 3, b: 3 }, 3))).toEqual(['0', '1', '3'])
      expect(ids(await lease(storage, { a: 3, b: 3, c: 3 }, 3))).toEqual(['2', '4', '5'])
    })

    test('takes no more of an address than its share', async ({ outbox: { storage } }) => {
      const now = Date.now()
      for (let n = 0; n < 5; n++) {
        const due = { at: now - 10_000 + n }
        await storage.write([
          appending(newEvent({ id: `a${n}`, type: 'a', due })),
          appending(newEvent({ id: `b${n}`, type: 'b', due })),
        ])
      }
      expect(ids(await lease(storage, { a: 2, b: 1 })).toSorted()).toEqual(['a0', 'a1', 'b0'])
      expect(ids(await lease(storage, { a: 10, b: 10 }, 4)).toSorted()).toEqual(['a2', 'a3', 'b1', 'b2'])
    })

    test('says which addresses wait, and for how long', async (place) => {
      const { storage } = place.outbox
      expect(await storage.waiting()).toEqual([])
      await storage.write([
        appending(newEvent({ type: 'late', due: { at: Date.now() - 5_000 } })),
        appending(newEvent({ type: 'late' })),
        appending(newEvent({ type: 'far', due: FAR })),
        appending(newEvent({ type: 'x', address: 'x#leased' })),
      ])
      await lease(storage, { 'x#leased': 1 })
      const waiting = Object.fromEntries(
        (await storage.waiting()).map(({ address, oldestDueMs }) => [address, oldestDueMs]),
      )
      expect(Object.keys(waiting).toSorted()).toEqual(['far', 'late', 'x#leased'])
      expect(waiting['late']).toBeGreaterThanOrEqual(4_000)
      expect(waiting['late']).toBeLessThan(60_000)
      expect(waiting['far']).toBeLessThan(-3_000_000)
      expect(waiting['x#leased']).toBeLessThan(0)
    })

    test('counts what is due by address', async ({ outbox: { storage } }) => {
      const types = ['a', 'a', 'b', 'b', 'b']
      await storage.write(types.map((type) => appending(newEvent({ type }))))
      await storage.write([appending(newEvent({ type: 'a', address: 'a#x' }))])
      await storage.write([appending(newEvent({ type: 'later', due: FAR }))])
      await lease(storage, { b: 1 })
      expect(await storage.stats()).toMatchObject({
        due: 5,
        leased: 1,
        dueByAddress: { a: 2, b: 2, 'a#x': 1 },
      })
    })
  })
}

function lease<Tx, O>(
  storage: Storage<Tx, O>,
  shares: Readonly<Record<string, number>>,
  limit = 100,
): Promise<readonly LeasedEvent[]> {
  const addresses: LeaseRequest['addresses'] = Object.entries(shares).map(([address, share]) => ({
    address,
    limit: share,
  }))
  return storage.lease({ limit, leaseMs: LEASE_MS, addresses })
}

function ids(events: readonly LeasedEvent[]): string[] {
  return events.map(({ id }) => id)
}
