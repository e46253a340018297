import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, payload, settling, takeDue, text } from '../harness.ts'
import { eventIds, FAR, LEASE_MS, leased, payloadTexts, putting, settlement } from './fixtures.ts'

/** Several clients on one place. */
export function siblingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('clients', () => {
    test('initialize leaves alone what is stored', async (place) => {
      const { storage } = place.outbox
      const lease = await leased(place, { fingerprint: 'first' })
      await storage.write([appending(newEvent({ due: FAR })), putting(payload('claim', 'x'))])
      const before = await place.events()
      await storage.initialize()
      expect(await place.events()).toEqual(before)
      expect(text(await storage.getPayload('claim'))).toBe('x')
      expect(await storage.write([settling(settlement('complete', lease))])).toEqual([{ status: 'applied' }])
    })

    if (test.traits.singleClient) return

    test('write side by side without losing or mixing anything', async (place) => {
      const clients = [place.outbox, await place.sibling(), await place.sibling()]
      const results = await Promise.all(
        clients.flatMap(({ storage }, client) =>
          Array.from({ length: 5 }, (_, batch) =>
            storage.write(
              Array.from({ length: 10 }, (_, index) => ({
                append: [newEvent({ id: `${client}-${batch}-${index}`, due: FAR })],
                put: [payload(`${client}-${batch}-${index}`, `${client}-${batch}-${index}`)],
                remove: [],
              })),
            ),
          ),
        ),
      )
      expect(results.flat()).toEqual(Array(150).fill({ status: 'applied' }))
      const ids = await eventIds(place)
      expect(new Set(ids).size).toBe(150)
      expect(ids).toHaveLength(150)
      expect(await payloadTexts(place)).toEqual(Object.fromEntries(ids.map((id) => [id, id])))
    })

    test('settle what another leased; one that closes leaves the others working', async (place) => {
      const sibling = await place.sibling()
      const lease = await leased(place)
      expect(await takeDue(sibling.storage, 10, LEASE_MS)).toEqual([])
      expect(await sibling.storage.extend([lease], LEASE_MS)).toEqual([])
      expect(await sibling.storage.write([settling(settlement('bury', lease))])).toEqual([
        { status: 'applied' },
      ])
      await sibling.close()
      await sibling.close()
      expect((await place.outbox.storage.listDead({ limit: 10 })).events).toMatchObject([lease])
      await leased(place)
    })
  })
}
