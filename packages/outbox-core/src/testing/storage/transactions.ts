import { describe, expect } from 'vitest'
import type { Outcome, OutcomeResult } from '../../storage.ts'
import type { Place } from '../backend.ts'
import { appending, newEvent, type PlaceTest, payload, settling, text } from '../harness.ts'
import { eventIds, FAR, leased, payloadTexts, putting, rawEvent, removing, settlement } from './fixtures.ts'

class Rollback extends Error {}

/** Outcomes inside a transaction: seen by it at once, by everybody else at its commit, by nobody after a rollback. */
export function storageTransactionContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  const { collectsWrites = false, singleClient = false } = test.traits

  describe('outcomes in a transaction', () => {
    test('settle, append, put and remove together, or not at all', async (place) => {
      const { storage } = place.outbox
      await storage.write([putting(payload('old', 'old'), payload('replaced', 'before'))])
      const lease = await leased(place)
      const step = settling(settlement('complete', lease), {
        append: [newEvent({ id: 'next', due: FAR })],
        put: [payload('new', 'new'), payload('replaced', 'after')],
        remove: ['old'],
      })
      const thrown = new Rollback('no')
      const failing = storage.transaction(async (tx) => {
        await storage.write([step], tx)
        throw thrown
      })
      await expect(failing).rejects.toBe(thrown)
      expect(await eventIds(place)).toEqual([lease.id])
      expect(await rawEvent(place, lease.id)).toMatchObject({ state: 'leased', attempt: 1 })
      expect(await payloadTexts(place)).toEqual({ old: 'old', replaced: 'before' })
      const returned = { some: 'result' }
      const committed = await storage.transaction(async (tx) => {
        await storage.write([step], tx)
        return returned
      })
      expect(committed).toBe(returned)
      expect(await eventIds(place)).toEqual(['next'])
      expect(await payloadTexts(place)).toEqual({ new: 'new', replaced: 'after' })
    })

    test('show to its own reads what it has put, replaced and removed', async (place) => {
      const { storage } = place.outbox
      await storage.write([
        putting(payload('removed', 'x'), payload('replaced', 'before'), payload('same', 'x')),
      ])
      await storage.transaction(async (tx) => {
        const read = async (id: string) => text(await storage.getPayload(id, tx))
        await storage.write(
          [{ ...putting(payload('new', 'one'), payload('replaced', 'after')), remove: ['removed'] }],
          tx,
        )
        expect([await read('new'), await read('replaced'), await read('removed')]).toEqual([
          'one',
          'after',
          undefined,
        ])
        await storage.write([putting(payload('new', 'two'))], tx)
        expect([await read('new'), await read('same'), await read('none')]).toEqual(['two', 'x', undefined])
        await storage.write([removing('new')], tx)
        await storage.write([putting(payload('removed', 'again'))], tx)
        expect([await read('new'), await read('removed')]).toEqual([undefined, 'again'])
      })
      expect(await payloadTexts(place)).toEqual({ removed: 'again', replaced: 'after', same: 'x' })
    })

    if (!singleClient) {
      test('stay hidden from other clients until the commit', async (place) => {
        const { storage } = place.outbox
        const elsewhere = (await place.sibling()).storage
        await storage.write([putting(payload('replaced', 'before'), payload('removed', 'x'))])
        await storage.transaction(async (tx) => {
          await storage.write(
            [
              {
                append: [newEvent()],
                put: [payload('new', 'x'), payload('replaced', 'after')],
                remove: ['removed'],
              },
            ],
            tx,
          )
          expect(await elsewhere.getPayload('new')).toBeUndefined()
          expect(text(await elsewhere.getPayload('replaced'))).toBe('before')
          expect(text(await elsewhere.getPayload('removed'))).toBe('x')
          expect((await elsewhere.stats()).due).toBe(0)
        })
        expect(text(await elsewhere.getPayload('new'))).toBe('x')
        expect(text(await elsewhere.getPayload('replaced'))).toBe('after')
        expect(await elsewhere.getPayload('removed')).toBeUndefined()
        expect((await elsewhere.stats()).due).toBe(1)
      })
    }

    test('that are lost or duplicate apply nothing of themselves', async (place) => {
      const { storage } = place.outbox
      await storage.write([
        appending(newEvent({ id: 'taken', due: FAR, fingerprint: 'first' })),
        putting(payload('kept', 'before')),
      ])
      const lease = await leased(place)
      const before = await eventIds(place)
      const ghost = { put: [payload('kept', 'ghost'), payload('ghost', 'x')], remove: [] }
      const refused: [Outcome, OutcomeResult][] = [
        [
          settling(settlement('complete', { ...lease, attempt: 7 }), {
            ...ghost,
            append: [newEvent({ id: 'ghost' })],
          }),
          { status: 'lost' },
        ],
        [
          { ...ghost, append: [newEvent({ id: 'taken', fingerprint: 'second' })] },
          { status: 'duplicate', fingerprint: 'first' },
        ],
        [
          settling(settlement('complete', { ...lease, attempt: 7 }), {
            ...ghost,
            append: [newEvent({ id: 'taken', fingerprint: 'second' })],
          }),
          { status: 'lost' },
        ],
      ]
      for (const [index, [outcome, result]] of refused.entries()) {
        const good = appending(newEvent({ id: `good-${index}`, due: FAR }))
        const { committed, results } = await attempt(place, [[outcome], [good]])
        // Collected writes may turn out to be refused at the commit only, which then fails as a whole.
        if (!collectsWrites) expect(committed).toBe(true)
        if (committed) {
          expect(results).toEqual([[result], [{ status: 'applied' }]])
          before.push(`good-${index}`)
        }
        expect(await eventIds(place)).toEqual(before.sort())
        expect(await payloadTexts(place)).toEqual({ kept: 'before' })
        expect(await rawEvent(place, lease.id)).toMatchObject({ state: 'leased', attempt: 1 })
      }
    })

    test('are judged by what the transaction did before', async (place) => {
      const lease = await leased(place)
      const named = newEvent({ due: FAR, fingerprint: 'first' })
      const twice: [Outcome, Outcome, OutcomeResult][] = [
        [
          settling(settlement('complete', lease), { append: [newEvent({ id: 'a', due: FAR })] }),
          settling(settlement('complete', lease), { append: [newEvent({ id: 'b', due: FAR })] }),
          { status: 'lost' },
        ],
        [
          { ...appending(named), put: [payload('claim', 'first')] },
          { ...appending({ ...named, fingerprint: 'second' }), put: [payload('claim', 'second')] },
          { status: 'duplicate', fingerprint: 'first' },
        ],
      ]
      for (const [first, second, result] of twice) {
        const before = await place.events()
        const { committed, results } = await attempt(place, [[first], [second]])
        if (!collectsWrites) expect(committed).toBe(true)
        if (committed) expect(results).toEqual([[{ status: 'applied' }], [result]])
        else expect(await place.events()).toEqual(before)
      }
      expect(await eventIds(place)).not.toContain('b')
      expect((await payloadTexts(place))['claim']).not.toBe('second')
    })

    test('of transactions that settle one lease at the same time, exactly one is applied', async (place) => {
      for (let round = 0; round < 5; round++) {
        const lease = await leased(place)
        const attempts = await Promise.all(
          [0, 1, 2].map((worker) => {
            const append = [newEvent({ id: `after-${round}-by-${worker}`, due: FAR })]
            return attempt(place, [[settling(settlement('complete', lease), { append })]])
          }),
        )
        const won = attempts.flatMap(({ committed, results }, worker) =>
          committed && results[0]?.[0]?.status === 'applied' ? [`after-${round}-by-${worker}`] : [],
        )
        expect(won).toHaveLength(1)
        expect((await eventIds(place)).filter((id) => id.startsWith(`after-${round}-`))).toEqual(won)
      }
    })

    test('of transactions that append one id at the same time, exactly one is applied', async (place) => {
      for (let round = 0; round < 5; round++) {
        const attempts = await Promise.all(
          [0, 1, 2].map((writer) => {
            const event = newEvent({ id: `order-${round}`, due: FAR, fingerprint: `by ${writer}` })
            return attempt(place, [
              [{ ...appending(event), put: [payload(`claim-${round}-${writer}`, 'x')] }],
            ])
          }),
        )
        const won = attempts.flatMap(({ committed, results }, writer) =>
          committed && results[0]?.[0]?.status === 'applied' ? [`claim-${round}-${writer}`] : [],
        )
        expect(won).toHaveLength(1)
        const claims = Object.keys(await payloadTexts(place)).filter((id) => id.startsWith(`claim-${round}-`))
        expect(claims).toEqual(won)
      }
      expect(await place.events()).toHaveLength(5)
    })
  })
}

/** Writes one call after another in one transaction. */
async function attempt<Tx, O>(
  { outbox: { storage } }: Place<Tx, O>,
  calls: readonly (readonly Outcome[])[],
): Promise<{ committed: boolean; results: (readonly OutcomeResult[])[] }> {
  let results: (readonly OutcomeResult[])[] = []
  try {
    await storage.transaction(async (tx) => {
      // Some drivers run the callback again after a conflict.
      results = []
      for (const outcomes of calls) results.push(await storage.write(outcomes, tx))
    })
    return { committed: true, results }
  } catch {
    return { committed: false, results }
  }
}
