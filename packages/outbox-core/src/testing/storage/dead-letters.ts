import { describe, expect } from 'vitest'
import type { DeadCursor, DeadQuery } from '../../storage.ts'
import type { Place } from '../backend.ts'
import { appending, newEvent, type PlaceTest, payload, settling, sleep, takeDue } from '../harness.ts'
import { inState, LEASE_MS, leased, payloadTexts, putting, settlement } from './fixtures.ts'

/** Dead letters as the storage keeps them. */
export function deadLetterStorageContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('dead letters in the storage', () => {
    test('are listed by when they died, not by when they were written', async (place) => {
      const { storage } = place.outbox
      const ids = await manyLeased(place, 6)
      const died = ids.toReversed()
      for (const id of died) {
        await storage.write([settling(settlement('bury', { id, attempt: 1 }))])
        await sleep(5)
      }
      expect(await pages(place, { limit: 10 })).toEqual(died)
      expect(await pages(place, { limit: 4 })).toEqual(died)
    })

    test('that died in the same write are all listed, each once', async (place) => {
      const ids = await manyBuried(place, 10)
      for (const limit of [1, 3, 5, 10]) expect((await pages(place, { limit })).sort()).toEqual(ids)
    })

    test.each(
      'none is missed or repeated while they are settled by %s',
      ['discard', 'revive'] as const,
      async (place, kind) => {
        const ids = await manyBuried(place, 10)
        const seen: string[] = []
        let after: DeadCursor | undefined
        do {
          const page = await place.outbox.storage.listDead({
            limit: 3,
            ...(after !== undefined && { after }),
          })
          expect(seen.length).toBeLessThan(100)
          seen.push(...page.events.map(({ id }) => id))
          const results = await place.outbox.storage.write(
            page.events.map((event) => settling(settlement(kind, event))),
          )
          expect(results.every(({ status }) => status === 'applied')).toBe(true)
          after = page.next
        } while (after !== undefined)
        expect(seen.sort()).toEqual(ids)
        expect((await place.outbox.stats()).dead).toBe(0)
      },
    )

    test('are found by id and by type, page by page', async (place) => {
      const { storage } = place.outbox
      const wanted = await manyBuried(place, 5, 'wanted.type')
      const others = await manyBuried(place, 5, 'other.type')
      const living = await leased(place, { type: 'wanted.type' })
      const ids = [...wanted.slice(0, 4), ...others.slice(0, 2), living.id, 'unknown']
      const found = ids.slice(0, 6).sort()
      for (const limit of [2, 100]) {
        expect((await pages(place, { limit, type: 'wanted.type' })).sort()).toEqual(wanted)
        expect((await pages(place, { limit, ids })).sort()).toEqual(found)
        expect((await pages(place, { limit, ids, type: 'other.type' })).sort()).toEqual(others.slice(0, 2))
      }
      expect((await storage.listDead({ limit: 10, ids: [living.id, 'unknown'] })).events).toEqual([])
    })

    test('keep everything about the event, and why it died', async (place) => {
      const { storage } = place.outbox
      const event = newEvent({ body: '{"name":"Zoë 𝄞"}', headers: { tenant: '✓' } })
      await leased(place, event)
      await place.expireLeases()
      const [lease] = await takeDue(storage, 1, LEASE_MS)
      const error = `Error: "it's" – ✓ 𝄞\n    at line 2; ${'x'.repeat(2_000)}`
      await storage.write([settling({ kind: 'bury', id: event.id, attempt: 2, error })])
      const { events } = await storage.listDead({ limit: 10 })
      const { id, type, body, headers } = event
      expect(events).toEqual([
        {
          ...{ id, type, address: type, key: null, body, headers, error, attempt: 2, uncounted: 0 },
          waitingBehind: 0,
          ...{ createdAt: lease?.createdAt, diedAt: expect.any(Number) },
        },
      ])
      expect(Math.abs((events[0]?.diedAt ?? 0) - Date.now())).toBeLessThan(600_000)
    })

    test('come back due at once with every attempt pardoned, and can die again', async (place) => {
      const { storage } = place.outbox
      const { id } = await leased(place)
      await storage.write([
        settling({ kind: 'retry', id, attempt: 1, delayMs: 0, error: null, counted: false }),
      ])
      await takeDue(storage, 1, LEASE_MS)
      await place.expireLeases()
      await takeDue(storage, 1, LEASE_MS)
      await storage.write([settling({ kind: 'bury', id, attempt: 3, error: 'first' })])
      expect((await storage.listDead({ limit: 1 })).events).toMatchObject([{ attempt: 3, uncounted: 1 }])
      await storage.write([settling(settlement('revive', { id, attempt: 3 }))])
      expect((await storage.listDead({ limit: 1 })).events).toEqual([])
      expect(await takeDue(storage, 1, LEASE_MS)).toMatchObject([{ id, attempt: 4, uncounted: 3 }])
      await storage.write([settling({ kind: 'bury', id, attempt: 4, error: 'second' })])
      expect((await storage.listDead({ limit: 10 })).events).toMatchObject([
        { id, attempt: 4, uncounted: 3, error: 'second' },
      ])
    })

    test('are left alone by leases and purges', async (place) => {
      const lease = await inState(place, 'dead')
      await place.expireLeases()
      expect(await takeDue(place.outbox.storage, 10, LEASE_MS)).toEqual([])
      expect((await place.outbox.storage.purge(10)).events).toBe(0)
      expect((await place.outbox.storage.listDead({ limit: 10 })).events).toMatchObject([lease])
    })

    test('are listed inside a transaction, without waiting for it', async (place) => {
      const { storage } = place.outbox
      const kept = await inState(place, 'dead')
      const gone = await inState(place, 'dead')
      await storage.transaction(async (tx) => {
        await storage.write([settling(settlement('discard', gone))], tx)
        const { events } = await storage.listDead({ limit: 10, ids: [kept.id] }, tx)
        expect(events).toMatchObject([kept])
        expect((await storage.listDead({ limit: 10 }, tx)).events.map(({ id }) => id)).toContain(kept.id)
      })
      expect((await storage.listDead({ limit: 10 })).events).toMatchObject([kept])
    })

    test('are discarded once, together with their payload', async (place) => {
      const { storage } = place.outbox
      const lease = await inState(place, 'dead')
      await storage.write([putting(payload('mine', 'x'), payload('later', 'y'))])
      const discard = settlement('discard', lease)
      expect(await storage.write([settling(discard, { remove: ['mine'] })])).toEqual([{ status: 'applied' }])
      expect(await storage.write([settling(discard, { remove: ['later'] })])).toEqual([{ status: 'lost' }])
      expect(await place.events()).toEqual([])
      expect(await payloadTexts(place)).toEqual({ later: 'y' })
    })
  })
}

async function manyLeased<Tx, O>(place: Place<Tx, O>, count: number, type?: string): Promise<string[]> {
  const { storage } = place.outbox
  const events = Array.from({ length: count }, () => newEvent(type === undefined ? {} : { type }))
  for (const event of events) await storage.write([appending(event)])
  expect(await takeDue(storage, count, LEASE_MS)).toHaveLength(count)
  return events.map(({ id }) => id)
}

/** Letters that died in one write, by id. */
async function manyBuried<Tx, O>(place: Place<Tx, O>, count: number, type?: string): Promise<string[]> {
  const ids = await manyLeased(place, count, type)
  await place.outbox.storage.write(ids.map((id) => settling(settlement('bury', { id, attempt: 1 }))))
  return ids.sort()
}

async function pages<Tx, O>({ outbox: { storage } }: Place<Tx, O>, query: DeadQuery): Promise<string[]> {
  const seen: string[] = []
  let after: DeadCursor | undefined
  do {
    const page = await storage.listDead({ ...query, ...(after !== undefined && { after }) })
    expect(page.events.length).toBeLessThanOrEqual(query.limit)
    // A cursor that does not move on would go round for ever.
    expect(seen.length).toBeLessThan(100)
    seen.push(...page.events.map(({ id }) => id))
    after = page.next
  } while (after !== undefined)
  return seen
}
