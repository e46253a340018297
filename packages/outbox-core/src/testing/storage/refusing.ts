import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, settling, takeDue } from '../harness.ts'
import { FAR, LEASE_MS, leased, rawEvent, settlement } from './fixtures.ts'

// Outside what any of the databases takes for a time or a number of its own.
const BEYOND = [Number.NaN, Number.POSITIVE_INFINITY, -1e300, 1e300] as const

/** A value that the database can't hold concerns only the outcome it is in, and says so. */
export function refusingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('what the database can’t hold', () => {
    test.each('a retry after %s ms is refused as such, or is due again', BEYOND, async (place, delayMs) => {
      const { storage } = place.outbox
      const lease = await leased(place)
      const retry = settling({ kind: 'retry', ...lease, delayMs, error: 'x', counted: true })
      const thrown = await storage.write([retry]).then(
        () => undefined,
        (error: unknown) => error,
      )
      if (thrown !== undefined) expect(thrown).toMatchObject({ code: 'OUTBOX_STORAGE', blame: 'event' })
      const event = await rawEvent(place, lease.id)
      expect(event).toMatchObject({ state: thrown === undefined ? 'waiting' : 'leased' })
      if (thrown === undefined && !(delayMs > 0)) expect(await takeDue(storage, 1, LEASE_MS)).toHaveLength(1)
      // Whatever happened, it is not lost: it can still be settled, or taken again.
      if (thrown !== undefined) {
        expect(await storage.write([settling(settlement('bury', lease))])).toEqual([{ status: 'applied' }])
      }
    })

    test.each('an event due in %s ms is refused as such, or stored', BEYOND, async (place, inMs) => {
      const { storage } = place.outbox
      const event = newEvent({ due: { inMs } })
      const thrown = await storage.write([appending(event)]).then(
        () => undefined,
        (error: unknown) => error,
      )
      if (thrown !== undefined) expect(thrown).toMatchObject({ code: 'OUTBOX_STORAGE', blame: 'event' })
      expect((await rawEvent(place, event.id)) === undefined).toBe(thrown !== undefined)
      if (thrown === undefined && !(inMs > 0)) expect(await takeDue(storage, 1, LEASE_MS)).toHaveLength(1)
      expect(await storage.write([appending(newEvent({ due: FAR }))])).toEqual([{ status: 'applied' }])
    })

    test('text that a database may not hold is kept as well as it can be, or refused as such', async (place) => {
      const { storage } = place.outbox
      for (const error of ['NUL \0 inside', 'lone \ud800 surrogate']) {
        const lease = await leased(place)
        const bury = settling({ kind: 'bury', ...lease, error })
        const thrown = await storage.write([bury]).then(
          () => undefined,
          (refusal: unknown) => refusal,
        )
        if (thrown !== undefined) expect(thrown).toMatchObject({ code: 'OUTBOX_STORAGE', blame: 'event' })
        const plain = settling({ kind: 'bury', ...lease, error: 'plain' })
        if (thrown !== undefined) expect(await storage.write([plain])).toEqual([{ status: 'applied' }])
        expect(await rawEvent(place, lease.id)).toMatchObject({ state: 'dead' })
      }
    })
  })
}
