import { describe, expect } from 'vitest'
import type { Place } from './backend.ts'
import { appending, newEvent, type PlaceTest, payload, settling } from './harness.ts'

const LEASE_MS = 60_000

/** Dead letters: paged, tried again, given up. And the purge of what is finished. */
export function deadLetterContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('dead letters', () => {
    test('lists them oldest first, in pages that miss none', async (place) => {
      const ids = await bury(place, 25)
      const seen: string[] = []
      let after: string | undefined
      do {
        const page = await place.outbox.deadLetters.list({ limit: 7, ...(after !== undefined && { after }) })
        expect(page.letters.length).toBeLessThanOrEqual(7)
        seen.push(...page.letters.map(({ id }) => id))
        after = page.next
      } while (after !== undefined)
      expect(seen.toSorted()).toEqual(ids.toSorted())
      expect((await place.outbox.deadLetters.list({ type: 'other' })).letters).toEqual([])
    })

    test('tells payload, headers, attempts and reason', async (place) => {
      const event = newEvent({ body: '{"a":1}', headers: { tenant: 'x' } })
      await buryEvent(place, event)
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
      await place.outbox.storage.write([
        { append: [], put: [payload('c1', 'x'), payload('c2', 'y')], remove: [] },
      ])
      await buryEvent(place, event)
      expect(await place.outbox.deadLetters.discard([event.id, 'unknown'])).toBe(1)
      expect(await place.events()).toEqual([])
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['c2'])
    })

    test('retries or discards all of a type', async (place) => {
      await bury(place, 5)
      await buryEvent(place, newEvent({ type: 'other.event' }))
      expect(await place.outbox.deadLetters.discard({ all: true, type: 'other.event' })).toBe(1)
      expect(await place.outbox.deadLetters.retry({ all: true })).toBe(5)
      expect((await place.outbox.stats()).due).toBe(5)
    })

    test('revives and discards only with the right attempt number', async (place) => {
      const [id = ''] = await bury(place, 1)
      for (const kind of ['revive', 'discard'] as const) {
        expect(await place.outbox.storage.write([settling({ kind, id, attempt: 2 })])).toEqual([
          { status: 'lost' },
        ])
      }
      expect(await place.events()).toMatchObject([{ id, state: 'dead' }])
    })
  })

  describe('purge', () => {
    test('removes finished events past their retention, in bounded batches', async (place) => {
      const { storage } = place.outbox
      await storage.write(Array.from({ length: 12 }, () => appending(newEvent())))
      const leased = await storage.lease(12, LEASE_MS)
      await storage.write(
        leased.map(({ id, attempt }, index) =>
          settling({ kind: 'complete', id, attempt, keepMs: index < 10 ? 1 : 3_600_000 }),
        ),
      )
      await new Promise((resolve) => setTimeout(resolve, 50))
      const removed = [
        await storage.purge(4),
        await storage.purge(4),
        await storage.purge(4),
        await storage.purge(4),
      ]
      expect(removed.map(({ events }) => events)).toEqual([4, 4, 2, 0])
      expect(await place.events()).toHaveLength(2)
    })
  })
}

async function buryEvent<Tx, O>(
  { outbox: { storage } }: Place<Tx, O>,
  event: ReturnType<typeof newEvent>,
): Promise<void> {
  await storage.write([appending(event)])
  await storage.lease(1, LEASE_MS)
  await storage.write([settling({ kind: 'bury', id: event.id, attempt: 1, error: 'because' })])
}

async function bury<Tx, O>(place: Place<Tx, O>, count: number): Promise<string[]> {
  const events = Array.from({ length: count }, () => newEvent())
  for (const event of events) await buryEvent(place, event)
  return events.map(({ id }) => id)
}
