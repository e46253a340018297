import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, payload, settling, sleep, takeDue, text } from '../harness.ts'
import { inState, LEASE_MS, leased, payloadTexts, putting, settlement } from './fixtures.ts'

/** What is finished goes, in bounded batches; what is not stays. */
export function purgeContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('purging', () => {
    test('takes finished events past their retention, in bounded batches', async (place) => {
      const { storage } = place.outbox
      await storage.write(Array.from({ length: 12 }, () => appending(newEvent())))
      const leased = await takeDue(storage, 12, LEASE_MS)
      await storage.write(
        leased.map(({ id, attempt }, index) =>
          settling({ kind: 'complete', id, attempt, keepMs: index < 10 ? 1 : 3_600_000 }),
        ),
      )
      await sleep(50)
      const removed = [
        await storage.purge(4),
        await storage.purge(4),
        await storage.purge(4),
        await storage.purge(4),
      ]
      expect(removed.map(({ events }) => events)).toEqual([4, 4, 2, 0])
      expect(await place.events()).toHaveLength(2)
    })

    test('takes expired payloads in bounded batches and leaves the others', async (place) => {
      const { storage } = place.outbox
      const expired = Array.from({ length: 7 }, (_, index) => `expired-${index}`)
      const live = ['live-1', 'live-2', 'live-3']
      await storage.write([...expired, ...live].map((id) => putting(payload(id, id))))
      for (const id of expired) await place.expirePayload(id)
      for (let round = 0; round < 4; round++) expect((await storage.purge(3)).payloads).toBeLessThanOrEqual(3)
      expect(await payloadTexts(place)).toEqual(Object.fromEntries(live.map((id) => [id, id])))
      expect(await storage.purge(3)).toEqual({ events: 0, payloads: 0 })
      for (const id of live) expect(text(await storage.getPayload(id))).toBe(id)
    })

    test('deletes no more payloads at once than it says', async (place) => {
      const { storage } = place.outbox
      const count = async () => (await place.payloads()).length
      // A database with a time to live of its own may delete some just then, but not three times in a row.
      for (let attempt = 0; attempt < 3; attempt++) {
        const ids = Array.from({ length: 7 }, (_, index) => `expired-${attempt}-${index}`)
        await storage.write(ids.map((id) => putting(payload(id, id))))
        for (const id of ids) await place.expirePayload(id)
        const before = await count()
        const { payloads } = await storage.purge(3)
        if (before - (await count()) === payloads) return
      }
      expect.fail('every purge deleted another number of payloads than it returned')
    })

    test('has a limit for events and one for payloads, each of its own', async (place) => {
      const { storage } = place.outbox
      const ids = ['a', 'b', 'c']
      for (const id of ids) {
        await leased(place, { id })
        await storage.write([settling({ kind: 'complete', id, attempt: 1, keepMs: 1 })])
      }
      await storage.write(ids.map((id) => putting(payload(id, id))))
      for (const id of ids) await place.expirePayload(id)
      await sleep(20)
      expect((await storage.purge(2)).events).toBe(2)
      expect((await storage.purge(2)).events).toBe(1)
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('leaves every event that is not finished, however old', async (place) => {
      const { storage } = place.outbox
      const dying = await leased(place)
      await place.expireLeases()
      await storage.write([settling(settlement('bury', dying))])
      await inState(place, 'done')
      await leased(place)
      await storage.write([appending(newEvent({ due: { at: Date.now() - 3_600_000 } }))])
      await place.expireLeases()
      const before = await place.events()
      expect(before).toHaveLength(4)
      expect((await storage.purge(100)).events).toBe(0)
      expect(await place.events()).toEqual(before)
    })

    test('an id is free again after its event’s retention', async (place) => {
      const { storage } = place.outbox
      const event = newEvent({ fingerprint: 'first' })
      await leased(place, event)
      await storage.write([settling({ kind: 'complete', id: event.id, attempt: 1, keepMs: 1 })])
      await sleep(20)
      expect(await takeDue(storage, 10, LEASE_MS)).toEqual([])
      expect((await storage.purge(10)).events).toBe(1)
      expect(await storage.write([appending({ ...event, fingerprint: 'second' })])).toEqual([
        { status: 'applied' },
      ])
    })
  })
}
