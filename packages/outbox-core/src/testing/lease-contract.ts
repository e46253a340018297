import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, until } from './harness.ts'

const LEASE_MS = 60_000

/** Leases: a visibility time and an attempt number that fences. */
export function leaseContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('lease', () => {
    test('takes due events oldest first, no more than the limit, and none twice', async ({
      outbox: { storage },
    }) => {
      const ids = ['a', 'b', 'c', 'd', 'e']
      for (const id of ids) await storage.write([appending(newEvent({ id }))])
      const first = await storage.lease(2, LEASE_MS)
      const rest = await storage.lease(10, LEASE_MS)
      expect([...first, ...rest].map(({ id }) => id)).toEqual(ids)
      expect(first).toHaveLength(2)
      expect(await storage.lease(10, LEASE_MS)).toEqual([])
    })

    test('takes events by the time they are due, not by the time they were stored', async ({
      outbox: { storage },
    }) => {
      const now = Date.now()
      await storage.write([appending(newEvent({ id: 'late', due: { at: now - 1_000 } }))])
      await storage.write([appending(newEvent({ id: 'early', due: { at: now - 5_000 } }))])
      expect((await storage.lease(2, LEASE_MS)).map(({ id }) => id)).toEqual(['early', 'late'])
    })

    test('leaves alone what is not due yet, and takes it when it is', async ({ outbox: { storage } }) => {
      await storage.write([
        appending(newEvent({ id: 'far', due: { at: Date.now() + 3_600_000 } })),
        appending(newEvent({ id: 'hour', due: { inMs: 3_600_000 } })),
        appending(newEvent({ id: 'soon', due: { inMs: 150 } })),
      ])
      expect(await storage.lease(10, LEASE_MS)).toEqual([])
      const taken: string[] = []
      await until(async () => {
        taken.push(...(await storage.lease(10, LEASE_MS)).map(({ id }) => id))
        return taken.length > 0
      })
      expect(taken).toEqual(['soon'])
    })

    test('gives an event out again when its lease has run out, with the next attempt number', async (place) => {
      const { storage } = place.outbox
      await storage.write([appending(newEvent({ id: 'a' }))])
      for (const attempt of [1, 2, 3]) {
        expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ id: 'a', attempt, uncounted: 0 }])
        expect(await storage.lease(1, LEASE_MS)).toEqual([])
        await place.expireLeases()
      }
    })

    test('retries after the delay; a retry that does not count is pardoned', async (place) => {
      const { storage } = place.outbox
      await storage.write([appending(newEvent({ id: 'a' }))])
      const retry = (attempt: number, counted: boolean) =>
        settling({ kind: 'retry', id: 'a', attempt, delayMs: 0, error: 'why', counted })
      await storage.lease(1, LEASE_MS)
      await storage.write([retry(1, true)])
      expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ attempt: 2, uncounted: 0 }])
      await storage.write([retry(2, false)])
      expect(await storage.lease(1, LEASE_MS)).toMatchObject([{ attempt: 3, uncounted: 1 }])
      await storage.write([
        settling({ kind: 'retry', id: 'a', attempt: 3, delayMs: 3_600_000, error: 'why', counted: true }),
      ])
      expect(await storage.lease(1, LEASE_MS)).toEqual([])
      expect(await place.events()).toMatchObject([{ id: 'a', state: 'waiting', attempt: 3 }])
    })

    test('extends leases that are held, and names those that are not', async (place) => {
      const { storage } = place.outbox
      await storage.write([appending(newEvent({ id: 'a' })), appending(newEvent({ id: 'b' }))])
      const [a, b] = await storage.lease(2, LEASE_MS)
      if (!a || !b) throw new Error('two events were written')
      expect(await storage.extend([a, b], LEASE_MS)).toEqual([])
      await place.expireLeases()
      expect(await storage.extend([a], LEASE_MS)).toEqual([])
      const [retaken] = await storage.lease(2, LEASE_MS)
      expect(retaken).toMatchObject({ id: 'b', attempt: 2 })
      expect(await storage.extend([a, b, { id: 'none', attempt: 1 }], LEASE_MS)).toEqual(['b', 'none'])
      await storage.write([settling({ kind: 'complete', id: 'a', attempt: 1, keepMs: 60_000 })])
      expect(await storage.extend([a], LEASE_MS)).toEqual(['a'])
    })

    test('a short lease runs out by the database’s own clock', async ({ outbox: { storage } }) => {
      await storage.write([appending(newEvent({ id: 'a' }))])
      await storage.lease(1, 100)
      expect(await storage.lease(1, 100)).toEqual([])
      await until(async () => (await storage.lease(1, LEASE_MS)).length === 1)
    })

    if (!test.traits.singleClient) {
      test('never hands an event to two workers', async (place) => {
        const workers = [place.outbox, await place.sibling(), await place.sibling(), await place.sibling()]
        const total = 300
        for (let from = 0; from < total; from += 50) {
          await place.outbox.storage.write(Array.from({ length: 50 }, () => appending(newEvent())))
        }
        const taken: string[] = []
        await Promise.all(
          workers.map(async ({ storage }) => {
            while (taken.length < total) taken.push(...(await storage.lease(7, LEASE_MS)).map(({ id }) => id))
          }),
        )
        expect(taken).toHaveLength(total)
        expect(new Set(taken).size).toBe(total)
      })
    }

    test('counts due, leased and dead events', async (place) => {
      const { storage } = place.outbox
      expect(await storage.stats()).toEqual({ due: 0, leased: 0, dead: 0, oldestDueMs: null })
      const overdue = newEvent({ due: { at: Date.now() - 5_000 } })
      await storage.write([
        appending(newEvent({ id: 'dead', due: { at: Date.now() - 20_000 } })),
        appending(newEvent({ id: 'leased', due: { at: Date.now() - 10_000 } })),
        appending(overdue),
        appending(newEvent({ due: { inMs: 3_600_000 } })),
      ])
      await storage.lease(2, LEASE_MS)
      await storage.write([settling({ kind: 'bury', id: 'dead', attempt: 1, error: 'x' })])
      const stats = await storage.stats()
      expect(stats).toMatchObject({ due: 1, leased: 1, dead: 1 })
      expect(stats.oldestDueMs).toBeGreaterThanOrEqual(4_000)
      expect(stats.oldestDueMs).toBeLessThan(60_000)
    })
  })
}
