import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, takeDue } from '../harness.ts'
import { LEASE_MS, settlement } from './fixtures.ts'

/** An event comes out as it went in, to the last character. */
export function appendingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('appending', () => {
    test('keeps events with their headers, exactly as given', async ({ outbox, events }) => {
      const event = newEvent({
        type: 'order.placed',
        body: JSON.stringify({
          name: 'Zoë ✓ 𝄞',
          quote: `'";--`,
          nul: '\u0000',
          nested: { deep: [1, 2.5, null] },
        }),
        headers: { 'trace-id': 'ü/✓', 'x.y': '$set', plain: '' },
      })
      expect(await outbox.storage.write([appending(event)])).toEqual([{ status: 'applied' }])
      const { id, type, body, headers } = event
      expect(await events()).toEqual([{ id, type, body, headers, state: 'waiting', attempt: 0 }])
      const [leased] = await takeDue(outbox.storage, 1, LEASE_MS)
      expect(leased).toMatchObject({ id, type, body, headers, attempt: 1, uncounted: 0 })
      expect(Math.abs((leased?.createdAt ?? 0) - Date.now())).toBeLessThan(600_000)
    })

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
      const [first] = await takeDue(place.outbox.storage, 1, LEASE_MS)
      expect(first).toMatchObject({ id, type, body, headers })
      expect(await place.outbox.storage.extend([{ id, attempt: 1 }], LEASE_MS)).toEqual([])
      expect(
        await place.outbox.storage.write([settling(settlement('complete', { id, attempt: 1 }))]),
      ).toEqual([{ status: 'applied' }])
    })

    test('keeps an event of 200 KB', async ({ outbox }) => {
      const body = JSON.stringify('é'.repeat(100_000))
      await outbox.storage.write([appending(newEvent({ body }))])
      expect((await takeDue(outbox.storage, 1, LEASE_MS))[0]?.body).toBe(body)
    })
  })
}
