import { describe, expect } from 'vitest'
import type { Place } from './backend.ts'
import { newEvent, type PlaceTest, payload } from './harness.ts'
import { inState, LEASE_MS, putting } from './storage/fixtures.ts'

/** Dead letters: paged, tried again, given up. */
export function deadLetterContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('dead letters', () => {
    test('lists them in pages that miss none', async (place) => {
      const ids = await bury(place, 25)
      const seen: string[] = []
      let after: string | undefined
      do {
        const page = await place.outbox.deadLetters.list({ limit: 7, ...(after !== undefined && { after }) })
        expect(page.letters.length).toBeLessThanOrEqual(7)
        expect(seen.length).toBeLessThan(100)
        seen.push(...page.letters.map(({ id }) => id))
        after = page.next
      } while (after !== undefined)
      expect(seen.toSorted()).toEqual(ids.toSorted())
      expect((await place.outbox.deadLetters.list({ type: 'other' })).letters).toEqual([])
    })

    test('tells payload, headers, attempts and reason', async (place) => {
      const event = newEvent({ body: '{"a":1}', headers: { tenant: 'x' } })
      await inState(place, 'dead', event)
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters).toEqual([
        {
          id: event.id,
          type: event.type,
          payload: { a: 1 },
          headers: { tenant: 'x' },
          attempts: 1,
          error: 'because',
          createdAt: expect.any(Date),
          diedAt: expect.any(Date),
        },
      ])
    })

    test('retries one: due at once, with all its attempts', async (place) => {
      const [first = '', second = ''] = await bury(place, 2)
      expect(await place.outbox.deadLetters.retry(first)).toBe(1)
      expect(await place.outbox.deadLetters.retry(first)).toBe(0)
      expect(await place.outbox.storage.lease(10, LEASE_MS)).toMatchObject([
        { id: first, attempt: 2, uncounted: 1 },
      ])
      expect((await place.outbox.deadLetters.list()).letters.map(({ id }) => id)).toEqual([second])
    })

    test('discards one together with the payload of its claim', async (place) => {
      const event = newEvent({ headers: { 'outbox-claim': 'c1' } })
      await place.outbox.storage.write([putting(payload('c1', 'x'), payload('c2', 'y'))])
      await inState(place, 'dead', event)
      expect(await place.outbox.deadLetters.discard([event.id, 'unknown'])).toBe(1)
      expect(await place.events()).toEqual([])
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['c2'])
    })

    test('retries or discards all of a type', async (place) => {
      await bury(place, 5)
      await inState(place, 'dead', newEvent({ type: 'other.event' }))
      expect(await place.outbox.deadLetters.discard({ all: true, type: 'other.event' })).toBe(1)
      expect(await place.outbox.deadLetters.retry({ all: true })).toBe(5)
      expect((await place.outbox.stats()).due).toBe(5)
    })
  })
}

/** Buries new events, one after the other. */
async function bury<Tx, O>(place: Place<Tx, O>, count: number): Promise<string[]> {
  const ids: string[] = []
  for (let n = 0; n < count; n++) ids.push((await inState(place, 'dead')).id)
  return ids
}
