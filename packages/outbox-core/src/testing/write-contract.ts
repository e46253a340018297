import { describe, expect } from 'vitest'
import type { Place } from './backend.ts'
import { appending, newEvent, type PlaceTest, payload, settling, text } from './harness.ts'

const LEASE_MS = 60_000

/** The one write: every outcome entirely or not at all, and none by a worker whose lease is gone. */
export function writeContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('write', () => {
    test('appends events with their headers, exactly as given', async ({ outbox, events }) => {
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
      const [leased] = await outbox.storage.lease(1, LEASE_MS)
      expect(leased).toMatchObject({ id, type, body, headers, attempt: 1, uncounted: 0 })
      expect(Math.abs((leased?.createdAt ?? 0) - Date.now())).toBeLessThan(600_000)
    })

    test('keeps an event of 200 KB', async ({ outbox }) => {
      const body = JSON.stringify('é'.repeat(100_000))
      await outbox.storage.write([appending(newEvent({ body }))])
      expect((await outbox.storage.lease(1, LEASE_MS))[0]?.body).toBe(body)
    })

    test('settles, appends, puts and removes in one outcome', async (place) => {
      const { outbox } = place
      await outbox.storage.write([{ append: [], put: [payload('old', 'old')], remove: [] }])
      const leased = await leasedEvent(place)
      const next = newEvent()
      const outcome = settling(complete(leased), {
        append: [next],
        put: [payload('new', 'new')],
        remove: ['old'],
      })
      expect(await outbox.storage.write([outcome])).toEqual([{ status: 'applied' }])
      expect((await place.events()).map(({ id }) => id)).toEqual([next.id])
      expect((await place.payloads()).map(({ id, data }) => [id, text(data)])).toEqual([['new', 'new']])
    })

    test('applies nothing of an outcome whose lease was lost, and everything of the others', async (place) => {
      const { outbox } = place
      await outbox.storage.write([{ append: [], put: [payload('kept', 'kept')], remove: [] }])
      const stale = await leasedEvent(place)
      await place.expireLeases()
      const [fresh] = await outbox.storage.lease(1, LEASE_MS)
      expect(fresh).toMatchObject({ id: stale.id, attempt: 2 })
      const other = await leasedEvent(place)
      const results = await outbox.storage.write([
        settling(complete(stale), {
          append: [newEvent({ id: 'ghost' })],
          put: [payload('ghost', 'x')],
          remove: ['kept'],
        }),
        settling(complete(other), { append: [newEvent({ id: 'real' })] }),
      ])
      expect(results).toEqual([{ status: 'lost' }, { status: 'applied' }])
      expect((await place.events()).map(({ id }) => id).sort()).toEqual([stale.id, 'real'].sort())
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['kept'])
      expect(await outbox.storage.write([settling(complete({ ...stale, attempt: 2 }))])).toEqual([
        { status: 'applied' },
      ])
    })

    test.each('refuses a stale %s', ['complete', 'keep', 'retry', 'bury'] as const, async (place, kind) => {
      const stale = await leasedEvent(place)
      await place.expireLeases()
      await place.outbox.storage.lease(1, LEASE_MS)
      const settle = {
        complete: complete(stale),
        keep: { ...complete(stale), keepMs: 1000 },
        retry: { kind: 'retry', id: stale.id, attempt: 1, delayMs: 0, error: 'x', counted: true } as const,
        bury: { kind: 'bury', id: stale.id, attempt: 1, error: 'x' } as const,
      }[kind]
      expect(await place.outbox.storage.write([settling(settle)])).toEqual([{ status: 'lost' }])
      expect(await place.events()).toMatchObject([{ id: stale.id, state: 'leased', attempt: 2 }])
    })

    test('settles an event whose lease has run out while nobody else took it', async (place) => {
      const leased = await leasedEvent(place)
      await place.expireLeases()
      expect(await place.outbox.storage.write([settling(complete(leased))])).toEqual([{ status: 'applied' }])
      expect(await place.events()).toEqual([])
    })

    test('settles once: a repeated settlement is lost', async (place) => {
      const leased = await leasedEvent(place)
      const outcome = settling(complete(leased), { append: [newEvent({ id: 'next' })] })
      expect(await place.outbox.storage.write([outcome])).toEqual([{ status: 'applied' }])
      expect(await place.outbox.storage.write([outcome])).toEqual([{ status: 'lost' }])
      expect((await place.events()).map(({ id }) => id)).toEqual(['next'])
    })

    test('keeps a completed event for its retention, without handing it out again', async (place) => {
      const leased = await leasedEvent(place)
      await place.outbox.storage.write([settling({ ...complete(leased), keepMs: 60_000 })])
      expect(await place.events()).toMatchObject([{ id: leased.id, state: 'done' }])
      expect(await place.outbox.storage.lease(10, LEASE_MS)).toEqual([])
      expect((await place.outbox.storage.purge(10)).events).toBe(0)
      expect(await place.events()).toHaveLength(1)
    })

    test('reports a duplicate id with the fingerprint of the first, and puts none of its payloads', async (place) => {
      const first = newEvent({ fingerprint: 'one' })
      const again = { ...newEvent(), id: first.id, fingerprint: 'two' }
      const { storage } = place.outbox
      expect(await storage.write([appending(first)])).toEqual([{ status: 'applied' }])
      const results = await storage.write([
        { append: [again], put: [payload('stray', 'x')], remove: [] },
        appending(newEvent({ id: 'other', fingerprint: 'three' })),
      ])
      expect(results).toEqual([{ status: 'duplicate', fingerprint: 'one' }, { status: 'applied' }])
      expect((await place.events()).map(({ id, body }) => [id, body]).sort()).toEqual(
        [
          [first.id, first.body],
          ['other', expect.any(String)],
        ].sort(),
      )
      expect(await place.payloads()).toEqual([])
    })

    test('applies a batch of outcomes of every kind in order', async (place) => {
      const { storage } = place.outbox
      await storage.write(Array.from({ length: 40 }, () => appending(newEvent())))
      const leased = await storage.lease(40, LEASE_MS)
      expect(leased).toHaveLength(40)
      const results = await storage.write(
        leased.map(({ id, attempt }, index) => {
          const append = [newEvent({ id: `next-${index}` })]
          const put = [payload(`claim-${index}`, `payload ${index}`)]
          if (index % 4 === 0)
            return settling({ kind: 'complete', id, attempt: attempt + 1, keepMs: 0 }, { append, put })
          if (index % 4 === 1)
            return settling({ kind: 'retry', id, attempt, delayMs: 60_000, error: 'e', counted: true })
          if (index % 4 === 2) return settling({ kind: 'bury', id, attempt, error: 'dead' }, { append })
          return settling({ kind: 'complete', id, attempt, keepMs: 0 }, { append, put })
        }),
      )
      expect(results.map(({ status }) => status)).toEqual(
        leased.map((_, index) => (index % 4 === 0 ? 'lost' : 'applied')),
      )
      const states = (await place.events()).map(({ id, state }) => (id.startsWith('next') ? 'next' : state))
      const count = (state: string): number => states.filter((candidate) => candidate === state).length
      expect([count('leased'), count('waiting'), count('dead'), count('next')]).toEqual([10, 10, 10, 20])
      expect(await place.payloads()).toHaveLength(10)
    })

    test('writes nothing for no outcomes', async ({ outbox, events }) => {
      expect(await outbox.storage.write([])).toEqual([])
      expect(await events()).toEqual([])
    })
  })
}

async function leasedEvent<Tx, O>({ outbox }: Place<Tx, O>): Promise<{ id: string; attempt: number }> {
  const event = newEvent()
  await outbox.storage.write([appending(event)])
  const leased = await outbox.storage.lease(1, LEASE_MS)
  expect(leased.map(({ id }) => id)).toEqual([event.id])
  return { id: event.id, attempt: leased[0]?.attempt ?? 0 }
}

function complete({ id, attempt }: { id: string; attempt: number }) {
  return { kind: 'complete', id, attempt, keepMs: 0 } as const
}
