import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, payload, settling, takeDue } from '../harness.ts'
import { FAR, inState, LEASE_MS, other, payloadTexts, putting, type State, settlement } from './fixtures.ts'

/** Events whose id the caller chose: in the outbox once. */
export function duplicateContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('duplicates', () => {
    const states: readonly State[] = ['waiting', 'leased', 'done', 'dead']
    test.each('an id is taken while its event is %s', states, async (place, state) => {
      const event = newEvent({ fingerprint: 'first' })
      await inState(place, state, event)
      const before = await place.events()
      for (const fingerprint of ['first', 'second']) {
        const again = { ...event, body: '"again"', headers: { again: 'yes' }, fingerprint }
        expect(await place.outbox.storage.write([appending(again)])).toEqual([
          { status: 'duplicate', fingerprint: 'first' },
        ])
      }
      expect(await place.events()).toEqual(before)
    })

    test('an id is free again once its event is deleted', async (place) => {
      const { storage } = place.outbox
      const event = newEvent({ id: 'order-1', fingerprint: 'first' })
      const completed = await inState(place, 'leased', event)
      await storage.write([settling(settlement('complete', completed))])
      const discarded = await inState(place, 'dead', { ...event, fingerprint: 'second' })
      await storage.write([settling(settlement('discard', discarded))])
      const third = appending({ ...event, fingerprint: 'third' })
      expect(await storage.write([third])).toEqual([{ status: 'applied' }])
      expect(await storage.write([third])).toEqual([{ status: 'duplicate', fingerprint: 'third' }])
    })

    test('says so when the first event’s id was not chosen by a caller', async ({ outbox: { storage } }) => {
      const first = newEvent({ due: FAR })
      await storage.write([appending(first)])
      expect(await storage.write([appending({ ...first, fingerprint: 'second' })])).toEqual([
        { status: 'duplicate', fingerprint: null },
      ])
    })

    test('a write can be repeated when nobody knows whether it arrived', async (place) => {
      const { storage } = place.outbox
      const write = {
        append: [newEvent({ id: 'a' }), newEvent({ id: 'b', due: FAR })],
        put: [payload('claim', 'x')],
        remove: ['old'],
      }
      await storage.write([putting(payload('old', 'old'))])
      expect(await storage.write([write])).toEqual([{ status: 'applied' }])
      expect(await takeDue(storage, 10, LEASE_MS)).toMatchObject([{ id: 'a', attempt: 1 }])
      const before = await place.events()
      expect(await storage.write([write])).toEqual([{ status: 'applied' }])
      expect(await place.events()).toEqual(before)
      expect(await takeDue(storage, 10, LEASE_MS)).toEqual([])
      expect(await payloadTexts(place)).toEqual({ claim: 'x' })
    })

    test('a duplicate neither replaces nor removes payloads', async (place) => {
      const { storage } = place.outbox
      const event = newEvent({ due: FAR, fingerprint: 'first' })
      await storage.write([putting(payload('old', 'old'))])
      await storage.write([{ ...appending(event), put: [payload('claim', 'first')] }])
      const again = { append: [event], put: [payload('claim', 'second')], remove: ['old'] }
      expect(await storage.write([again])).toEqual([{ status: 'duplicate', fingerprint: 'first' }])
      expect(await payloadTexts(place)).toEqual({ claim: 'first', old: 'old' })
    })

    test('of several writers of one id at the same time, exactly one is applied', async (place) => {
      const writers = [place.outbox, await other(place, test.traits.singleClient), place.outbox]
      for (let round = 0; round < 10; round++) {
        const results = await Promise.all(
          writers.map(({ storage }, writer) =>
            storage.write([
              {
                append: [newEvent({ id: `order-${round}`, due: FAR, fingerprint: `by ${writer}` })],
                put: [payload(`claim-${round}-${writer}`, 'x')],
                remove: [],
              },
            ]),
          ),
        )
        const statuses = results.map(([result]) => result?.status)
        expect(statuses.toSorted()).toEqual(['applied', 'duplicate', 'duplicate'])
        const winner = statuses.indexOf('applied')
        for (const [result] of results) {
          if (result?.status === 'duplicate') expect(result.fingerprint).toBe(`by ${winner}`)
        }
        const claims = Object.keys(await payloadTexts(place)).filter((id) => id.startsWith(`claim-${round}-`))
        expect(claims).toEqual([`claim-${round}-${winner}`])
      }
      expect(await place.events()).toHaveLength(10)
    })
  })
}
