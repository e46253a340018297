import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, sleep, takeDue, until } from '../harness.ts'
import { LEASE_MS, leased } from './fixtures.ts'

/** What a lease hands out: what is due, oldest first, to one worker at a time. */
export function leasingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('leasing', () => {
    test('says when it was, on the clock that events are created by', async (place) => {
      const { storage } = place.outbox
      await storage.write([appending(newEvent())])
      const [first] = await takeDue(storage, 1, 1)
      expect(first?.leasedAt).toBeGreaterThanOrEqual(first?.createdAt ?? Number.POSITIVE_INFINITY)
      expect((first?.leasedAt ?? 0) - (first?.createdAt ?? 0)).toBeLessThan(60_000)
      await sleep(30)
      const [second] = await takeDue(storage, 1, LEASE_MS)
      expect(second).toMatchObject({ id: first?.id, createdAt: first?.createdAt })
      expect((second?.leasedAt ?? 0) - (first?.leasedAt ?? 0)).toBeGreaterThanOrEqual(25)
    })

    test('takes due events oldest first, no more than the limit, and none twice', async ({
      outbox: { storage },
    }) => {
      const ids = ['a', 'b', 'c', 'd', 'e']
      for (const id of ids) await storage.write([appending(newEvent({ id }))])
      const first = await takeDue(storage, 2, LEASE_MS)
      const rest = await takeDue(storage, 10, LEASE_MS)
      expect([...first, ...rest].map(({ id }) => id)).toEqual(ids)
      expect(first).toHaveLength(2)
      expect(await takeDue(storage, 10, LEASE_MS)).toEqual([])
    })

    test('takes events by the time they are due, not by the time they were stored', async ({
      outbox: { storage },
    }) => {
      const now = Date.now()
      await storage.write([appending(newEvent({ id: 'late', due: { at: now - 1_000 } }))])
      await storage.write([appending(newEvent({ id: 'early', due: { at: now - 5_000 } }))])
      expect((await takeDue(storage, 2, LEASE_MS)).map(({ id }) => id)).toEqual(['early', 'late'])
    })

    test('leaves alone what is not due yet, and takes it when it is', async ({ outbox: { storage } }) => {
      await storage.write([
        appending(newEvent({ id: 'far', due: { at: Date.now() + 3_600_000 } })),
        appending(newEvent({ id: 'hour', due: { inMs: 3_600_000 } })),
        appending(newEvent({ id: 'soon', due: { inMs: 600 } })),
      ])
      expect(await takeDue(storage, 10, LEASE_MS)).toEqual([])
      const taken: string[] = []
      await until(async () => {
        taken.push(...(await takeDue(storage, 10, LEASE_MS)).map(({ id }) => id))
        return taken.length > 0
      })
      expect(taken).toEqual(['soon'])
    })

    test('tells the same event every time, whatever was done to the one before', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place, { headers: { tenant: 'a' } })
      await place.expireLeases()
      const [second] = await takeDue(storage, 1, LEASE_MS)
      Object.assign(second?.headers ?? {}, { tenant: 'b', added: 'c' })
      await place.expireLeases()
      const [third] = await takeDue(storage, 1, LEASE_MS)
      expect(third).toMatchObject({ id, attempt: 3, uncounted: 0, createdAt: second?.createdAt })
      expect(third?.headers).toEqual({ tenant: 'a' })
    })

    test('a short lease runs out by the database’s own clock', async ({ outbox: { storage } }) => {
      await storage.write([appending(newEvent({ id: 'a' }))])
      const begun = performance.now()
      await takeDue(storage, 1, 500)
      const early = await takeDue(storage, 1, 500)
      // On a busy machine it may have run out by then.
      if (performance.now() - begun < 500) expect(early).toEqual([])
      await until(async () => (await takeDue(storage, 1, LEASE_MS)).length === 1)
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
            while (taken.length < total)
              taken.push(...(await takeDue(storage, 7, LEASE_MS)).map(({ id }) => id))
          }),
        )
        expect(taken).toHaveLength(total)
        expect(new Set(taken).size).toBe(total)
      })
    }
  })
}
