import { describe, expect } from 'vitest'
import type { Outcome } from '../storage.ts'
import { appending, newEvent, type PlaceTest, payload, settling, sleep, takeDue } from './harness.ts'
import { LEASE_MS, leased, payloadTexts, putting } from './storage/fixtures.ts'

/** What drivers and poolers do unasked, sending again what was not answered, and what is counted and ordered all the same. */
export function repeatingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('what is sent again', () => {
    const generated: readonly { readonly name: string; readonly outcomes: () => Outcome[] }[] = [
      { name: 'one event', outcomes: () => [appending(newEvent())] },
      { name: 'several events', outcomes: () => [appending(newEvent(), newEvent()), appending(newEvent())] },
      {
        name: 'an event with its payload',
        outcomes: () => [{ ...appending(newEvent()), put: [payload('claim', 'x')] }],
      },
      { name: 'an event of later', outcomes: () => [appending(newEvent({ due: { inMs: 3_600_000 } }))] },
    ]
    for (const { name, outcomes } of generated) {
      test(`has no effect: ${name}`, async (place) => {
        const { storage } = place.outbox
        const written = outcomes()
        const applied = written.map(() => ({ status: 'applied' }))
        expect(await storage.write(written)).toEqual(applied)
        const before = [await place.events(), await place.payloads()]
        expect(await storage.write(written)).toEqual(applied)
        const [, payloads] = [await place.events(), await place.payloads()]
        expect(await place.events()).toEqual(before[0])
        expect(payloads).toHaveLength(before[1]?.length ?? 0)
      })
    }

    test('has no effect once the event has been leased, or has ended up as a dead letter', async (place) => {
      const { storage } = place.outbox
      const event = newEvent()
      await storage.write([appending(event)])
      const [lease] = await takeDue(storage, 1, LEASE_MS)
      const settle = { kind: 'bury', id: event.id, attempt: lease?.attempt ?? 0, error: 'e' } as const
      for (const state of ['leased', 'dead']) {
        if (state === 'dead') await storage.write([settling(settle)])
        expect(await storage.write([appending(event)])).toEqual([{ status: 'applied' }])
        expect(await place.events()).toMatchObject([{ id: event.id, state, attempt: 1 }])
      }
      expect(await storage.write([settling(settle)])).toEqual([{ status: 'lost' }])
    })

    test('is lost where it settles: a step that is sent twice is taken once', async (place) => {
      const { storage } = place.outbox
      const { id, attempt } = await leased(place)
      const step = settling(
        { kind: 'complete', id, attempt, keepMs: 0 },
        { append: [newEvent({ id: 'next' })], put: [payload('claim', 'next')] },
      )
      expect(await storage.write([step])).toEqual([{ status: 'applied' }])
      const events = await place.events()
      expect(await storage.write([step])).toEqual([{ status: 'lost' }])
      expect(await place.events()).toEqual(events)
      expect(await payloadTexts(place)).toEqual({ claim: 'next' })
    })
  })

  describe('cleanup and order', () => {
    test('cleanup says how many payloads it has removed', async (place) => {
      const { storage } = place.outbox
      const store = place.outbox.sagaStore('1d')
      // A database with a time to live of its own may be quicker, but not three times in a row.
      for (let attempt = 0; attempt < 3; attempt++) {
        const ids = Array.from({ length: 5 }, (_, n) => `expired-${attempt}-${n}`)
        await storage.write([...ids, `live-${attempt}`].map((id) => putting(payload(id, 'x'))))
        for (const id of ids) await place.expirePayload(id)
        const before = (await place.payloads()).length
        const removed = await store.cleanup()
        expect(await place.payloads()).toHaveLength(attempt + 1)
        if (removed === before - attempt - 1) return
      }
      expect.fail('every cleanup removed other payloads than it counted')
    })

    test('events whose lease has run out come oldest first, by when it did, before those that came later', async (place) => {
      const { storage } = place.outbox
      for (const id of ['first', 'second']) await storage.write([appending(newEvent({ id }))])
      expect(await takeDue(storage, 1, 1_500)).toMatchObject([{ id: 'first' }])
      expect(await takeDue(storage, 1, 100)).toMatchObject([{ id: 'second' }])
      await sleep(1_700)
      await storage.write([appending(newEvent({ id: 'third' }))])
      const again = await takeDue(storage, 3, LEASE_MS)
      expect(again.map(({ id }) => id)).toEqual(['second', 'first', 'third'])
    })
  })
}
