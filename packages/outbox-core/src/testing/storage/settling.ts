import { describe, expect } from 'vitest'
import { newEvent, type PlaceTest, payload, settling, takeDue } from '../harness.ts'
import {
  eventIds,
  FAR,
  inState,
  LEASE_MS,
  leased,
  leasedTwice,
  other,
  payloadTexts,
  rawEvent,
  type SettlementKind,
  settlement,
} from './fixtures.ts'

// A revived event is due at once, so the state that revival needs comes last.
const STATES = ['waiting', 'leased', 'done', 'dead'] as const
const KINDS: readonly SettlementKind[] = ['complete', 'keep', 'retry', 'bury', 'discard', 'revive']

const stateNeeded = (kind: SettlementKind) => (kind === 'discard' || kind === 'revive' ? 'dead' : 'leased')

/** Who may settle an event, and that everybody else changes nothing. */
export function settlingContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('settling', () => {
    test.each('%s only takes an event in its one right state', KINDS, async (place, kind) => {
      for (const state of STATES) {
        const lease = await inState(place, state)
        const before = await rawEvent(place, lease.id)
        const results = await place.outbox.storage.write([
          settling(settlement(kind, lease), {
            append: [newEvent({ id: `next-${state}`, due: FAR })],
            put: [payload(`claim-${state}`, state)],
          }),
        ])
        const right = state === stateNeeded(kind)
        expect(results, state).toEqual([{ status: right ? 'applied' : 'lost' }])
        if (!right) expect(await rawEvent(place, lease.id), state).toEqual(before)
      }
      const needed = stateNeeded(kind)
      expect((await eventIds(place)).filter((id) => id.startsWith('next-'))).toEqual([`next-${needed}`])
      expect(await payloadTexts(place)).toEqual({ [`claim-${needed}`]: needed })
    })

    test.each(
      '%s is lost with any other attempt number, and for an unknown event',
      KINDS,
      async (place, kind) => {
        const { storage } = place.outbox
        const { newer: lease } = await leasedTwice(place)
        expect(lease.attempt).toBe(2)
        if (stateNeeded(kind) === 'dead') await storage.write([settling(settlement('bury', lease))])
        const before = await place.events()
        for (const wrong of [
          { ...lease, attempt: 0 },
          { ...lease, attempt: 1 },
          { ...lease, attempt: 3 },
          { id: 'unknown', attempt: 2 },
        ]) {
          expect(await storage.write([settling(settlement(kind, wrong))])).toEqual([{ status: 'lost' }])
        }
        expect(await place.events()).toEqual(before)
        expect(await storage.write([settling(settlement(kind, lease))])).toEqual([{ status: 'applied' }])
      },
    )

    // A worker that was held up leases again what it had lost, and may be done with both at the same time.
    test.each(
      '%s beside an older lease of the same event, in one batch: only the newer one counts',
      KINDS,
      async (place, kind) => {
        const { storage } = place.outbox
        const append = (id: string) => [newEvent({ id, due: FAR })]
        for (const olderKind of ['complete', 'retry'] as const) {
          for (const newerFirst of [false, true]) {
            const { older, newer } = await leasedTwice(place)
            if (stateNeeded(kind) === 'dead') await storage.write([settling(settlement('bury', newer))])
            const batch = [
              settling(settlement(olderKind, older), { append: append(`older-of-${older.id}`) }),
              settling(settlement(kind, newer), { append: append(`newer-of-${older.id}`) }),
            ]
            const results = await storage.write(newerFirst ? batch.toReversed() : batch)
            expect(results.map(({ status }) => status)).toEqual(
              newerFirst ? ['applied', 'lost'] : ['lost', 'applied'],
            )
            const appended = (await eventIds(place)).filter((id) => id.endsWith(`-of-${older.id}`))
            expect(appended).toEqual([`newer-of-${older.id}`])
            // What is revived is due at once.
            const [revived] = await takeDue(storage, 1, LEASE_MS)
            if (revived) await storage.write([settling(settlement('complete', revived))])
          }
        }
      },
    )

    test('settles an event whose lease has run out while nobody else took it', async (place) => {
      const lease = await leased(place)
      await place.expireLeases()
      expect(await place.outbox.storage.write([settling(settlement('complete', lease))])).toEqual([
        { status: 'applied' },
      ])
      expect(await place.events()).toEqual([])
    })

    test('a worker from before a revival can settle neither the waiting nor the leased event', async (place) => {
      const { storage } = place.outbox
      const old = await inState(place, 'dead')
      await storage.write([settling(settlement('revive', old))])
      expect(await storage.write([settling(settlement('complete', old))])).toEqual([{ status: 'lost' }])
      const [fresh = old] = await takeDue(storage, 1, LEASE_MS)
      expect(fresh).toMatchObject({ id: old.id, attempt: 2 })
      expect(await storage.write([settling(settlement('complete', old))])).toEqual([{ status: 'lost' }])
      expect(await storage.write([settling(settlement('complete', fresh))])).toEqual([{ status: 'applied' }])
      expect(await place.events()).toEqual([])
    })

    test('of two workers that settle one lease at the same time, exactly one is applied', async (place) => {
      const workers = [place.outbox, await other(place, test.traits.singleClient)]
      for (let round = 0; round < 10; round++) {
        const lease = await leased(place)
        const results = await Promise.all(
          workers.map(({ storage }, worker) =>
            storage.write([
              settling(settlement('complete', lease), {
                append: [newEvent({ id: `after-${round}-by-${worker}`, due: FAR })],
                put: [payload(`claim-${round}`, `by ${worker}`)],
              }),
            ]),
          ),
        )
        const winner = results.findIndex(([result]) => result?.status === 'applied')
        expect(results.map(([result]) => result?.status).sort()).toEqual(['applied', 'lost'])
        expect(await eventIds(place)).toContain(`after-${round}-by-${winner}`)
        expect(await eventIds(place)).toHaveLength(round + 1)
        expect((await payloadTexts(place))[`claim-${round}`]).toBe(`by ${winner}`)
      }
    })
  })
}
