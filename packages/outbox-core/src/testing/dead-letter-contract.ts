import { describe, expect } from 'vitest'
import type { Place } from './backend.ts'
import { busOn } from './bus-fixtures.ts'
import { appending, newEvent, type PlaceTest, payload, settling, takeDue, until } from './harness.ts'
import { inState, LEASE_MS, putting, settlement } from './storage/fixtures.ts'

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
          waitingBehind: 0,
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
      expect(await takeDue(place.outbox.storage, 10, LEASE_MS)).toMatchObject([
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

    test('retries all that were dead when it began, and ends while a worker buries them again', async (place) => {
      const { outbox } = place
      const bus = busOn(outbox, { retry: { maxAttempts: 1 } })
      const handled = new Map<string, number>()
      bus.on('work', ({ id }) => {
        handled.set(id, (handled.get(id) ?? 0) + 1)
        throw new Error('no')
      })
      const dead = (count: number): Promise<void> => until(async () => (await outbox.stats()).dead === count)
      for (let n = 0; n < 120; n += 40)
        await bus.emitMany(Array.from({ length: 40 }, () => ({ type: 'work', payload: { n } })))
      await bus.start()
      await dead(120)
      const { listDead } = outbox.storage
      let pages = 0
      outbox.storage.listDead = async (query, tx) => {
        // Whatever was revived is dead again by the time of the next page.
        if (++pages > 1) await dead(120)
        if (pages > 10) throw new Error('it goes on and on')
        return listDead.call(outbox.storage, query, tx)
      }
      expect(await outbox.deadLetters.retry({ all: true })).toBe(120)
      await dead(120)
      await bus.stop()
      expect(pages).toBeLessThanOrEqual(3)
      expect([...handled.values()]).toEqual(Array.from({ length: 120 }, () => 2))
    })

    test('takes what was dead when it began, and nothing that dies meanwhile', async (place) => {
      const { outbox } = place
      const count = await buryMany(place, 101)
      const { listDead } = outbox.storage
      const later: string[] = []
      outbox.storage.listDead = async (query, tx) => {
        if (query.after && later.length === 0) later.push(...(await bury(place, 1)))
        return listDead.call(outbox.storage, query, tx)
      }
      expect(await outbox.deadLetters.discard({ all: true })).toBe(count)
      expect((await place.events()).map(({ id }) => id)).toEqual(later)
      expect(later).toHaveLength(1)
    })

    test('refuses a cursor that is no page’s, and a limit that is none', async (place) => {
      await bury(place, 3)
      const { deadLetters } = place.outbox
      const { next = '' } = await deadLetters.list({ limit: 1 })
      expect((await deadLetters.list({ after: next })).letters).toHaveLength(2)
      const nonsense = [
        '',
        'x',
        '0',
        "'; DROP TABLE outbox_events; --",
        `${next}x`,
        next.slice(1),
        next.slice(0, -1),
      ]
      const before = place.roundTrips()
      for (const after of [...nonsense, 'x'.repeat(100_000), 7, null, {}, [next, next]] as string[])
        await expect(deadLetters.list({ after })).rejects.toMatchObject({
          code: 'OUTBOX_CONFIGURATION',
          option: 'after',
        })
      for (const limit of [0, -1, 1.5, 1001, Number.NaN, '10' as unknown as number])
        await expect(deadLetters.list({ limit })).rejects.toMatchObject({
          code: 'OUTBOX_CONFIGURATION',
          option: 'limit',
        })
      expect(place.roundTrips()).toBe(before)
    })
  })
}

/** Buries new events, one after the other. */
async function bury<Tx, O>(place: Place<Tx, O>, count: number): Promise<string[]> {
  const ids: string[] = []
  for (let n = 0; n < count; n++) ids.push((await inState(place, 'dead')).id)
  return ids
}

/** Buries many new events, in as few writes as every database takes. Returns how many. */
async function buryMany<Tx, O>({ outbox: { storage } }: Place<Tx, O>, count: number): Promise<number> {
  for (let left = count; left > 0; left -= 50)
    await storage.write([appending(...Array.from({ length: Math.min(left, 50) }, () => newEvent()))])
  let buried = 0
  while (buried < count) {
    const leased = await takeDue(storage, 50, LEASE_MS)
    await storage.write(leased.map((lease) => settling(settlement('bury', lease))))
    buried += leased.length
  }
  return buried
}
