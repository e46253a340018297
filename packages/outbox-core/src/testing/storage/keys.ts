import { describe, expect } from 'vitest'
import type { LeasedEvent, NewEvent, Outcome, Storage } from '../../storage.ts'
import { appending, newEvent, type PlaceTest, settling, takeDue, until } from '../harness.ts'
import { LEASE_MS, rawEvent, type SettlementKind, settlement } from './fixtures.ts'

/** Order within a key: one at a time, by commit, until each has given up its place. */
export function keyContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('keys', () => {
    test('of a key only the first is taken, whatever its address', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2', { type: 'other' }), keyed('x', { key: 'x' }), keyed('3'))
      await storage.write([appending(newEvent({ id: 'free' }))])
      const taken = await takeAll(storage)
      expect(ids(taken).toSorted()).toEqual(['1', 'free', 'x'])
      expect(taken.find(({ id }) => id === '1')?.key).toBe('k')
      expect(await storage.stats()).toMatchObject({ leased: 3, due: 0, blocked: 2 })
      expect((await rawEvent(place, '2'))?.state).toBe('blocked')
    })

    for (const kind of ['complete', 'keep'] as const) {
      test(`the next one is taken once the one before is settled (${kind}), in the order of the writes`, async ({
        outbox: { storage },
      }) => {
        for (const id of ['1', '2', '3', '4']) await append(storage, keyed(id, { type: `type-${id}` }))
        const order: string[] = []
        for (let n = 0; n < 4; n++) {
          const [only, ...more] = await takeAll(storage)
          expect(more).toEqual([])
          order.push(only?.id ?? '')
          expect(await settle(storage, kind, only)).toMatchObject({ status: 'applied' })
        }
        expect(order).toEqual(['1', '2', '3', '4'])
        expect(await storage.stats()).toMatchObject({ leased: 0, due: 0, blocked: 0 })
      })
    }

    test('one write and one transaction keep the order of the calls', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'), keyed('3'))
      await storage.transaction(async (tx) => {
        for (const id of ['4', '5', '6']) await storage.write([appending(keyed(id))], tx)
        await storage.write([appending(keyed('7'), keyed('y', { key: 'y' }), keyed('8'))], tx)
      })
      await storage.write([appending(keyed('9')), appending(keyed('10'))])
      expect((await inOrder(storage)).filter((id) => id !== 'y')).toEqual(
        Array.from({ length: 10 }, (_, n) => `${n + 1}`),
      )
    })

    test('a retry, a lease that has run out and a lease given back hold their key', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      await settle(storage, 'retry', first)
      expect(await takeAll(storage)).toEqual([])
      await place.expireLeases()
      await storage.write([appending(keyed('3'))])
      expect(await storage.stats()).toMatchObject({ blocked: 2 })
    })

    test('a lease that has run out is taken again, before all that waits behind it', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2'))
      await takeAll(storage)
      await place.expireLeases()
      const again = await takeAll(storage)
      expect(again).toMatchObject([{ id: '1', attempt: 2, key: 'k' }])
      await settle(storage, 'complete', again[0])
      expect(await takeAll(storage)).toMatchObject([{ id: '2', attempt: 1 }])
    })

    test('a dead letter holds its key, and says how many wait behind it', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'), keyed('3'))
      const [first] = await takeAll(storage)
      await settle(storage, 'bury', first)
      expect(await takeAll(storage)).toEqual([])
      await append(storage, keyed('4'))
      const { events } = await storage.listDead({ limit: 10 })
      expect(events).toMatchObject([{ id: '1', key: 'k', waitingBehind: 3 }])
      expect((await storage.listDead({ limit: 10, ids: ['1'] })).events).toMatchObject([{ waitingBehind: 3 }])
      expect(await storage.stats()).toMatchObject({ dead: 1, due: 0, blocked: 3 })
    })

    test('a dead letter that is discarded lets its key go on', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      await settle(storage, 'bury', first)
      expect(await settle(storage, 'discard', first)).toMatchObject({ status: 'applied' })
      expect(await takeAll(storage)).toMatchObject([{ id: '2' }])
    })

    test('a dead letter that is revived is the first of its key still', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      await settle(storage, 'bury', first)
      await settle(storage, 'revive', first)
      expect(await takeAll(storage)).toMatchObject([{ id: '1', attempt: 2 }])
    })

    test('a dead letter that is skipped belongs to no key any more', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      const bury = { ...settlement('bury', first ?? NONE), skip: true } as Outcome['settle']
      expect(
        await storage.write([{ ...appending(), settle: bury as NonNullable<typeof bury> }]),
      ).toMatchObject([{ status: 'applied' }])
      expect((await storage.listDead({ limit: 10 })).events).toMatchObject([
        { id: '1', key: null, waitingBehind: 0 },
      ])
      expect(await takeAll(storage)).toMatchObject([{ id: '2' }])
      await settle(storage, 'revive', { ...(first ?? NONE), key: null })
      expect(await takeAll(storage)).toMatchObject([{ id: '1', key: null }])
    })

    test('what is appended in its place comes before all that waits behind it', async ({
      outbox: { storage },
    }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      const append3 = ['a', 'b', 'c'].map((id) => keyed(id, { inPlace: true }))
      await storage.write([settling(settlement('complete', first ?? NONE), { append: append3 })])
      expect(await inOrder(storage)).toEqual(['a', 'b', 'c', '2'])
    })

    test('what is appended in its place may be leased at once', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      const next = keyed('next', { inPlace: true, leased: true, due: { inMs: LEASE_MS } })
      await storage.write([settling(settlement('complete', first ?? NONE), { append: [next] })])
      expect(await takeAll(storage)).toEqual([])
      await settle(storage, 'complete', { id: 'next', attempt: 1, key: 'k' })
      expect(await takeAll(storage)).toMatchObject([{ id: '2' }])
    })

    test('what a settlement appends to its own key goes to the end', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      await storage.write([
        settling(settlement('complete', first ?? NONE), { append: [keyed('3'), keyed('z', { key: 'z' })] }),
      ])
      expect((await inOrder(storage)).filter((id) => id !== 'z')).toEqual(['2', '3'])
    })

    test('a settlement that is lost lets nothing go on', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2'))
      const [stale] = await takeAll(storage)
      await place.expireLeases()
      await takeAll(storage)
      expect(await settle(storage, 'complete', stale)).toEqual({ status: 'lost' })
      expect(await takeAll(storage)).toEqual([])
      expect(await storage.stats()).toMatchObject({ leased: 1, blocked: 1 })
    })

    test('many keys are settled in one write', async ({ outbox: { storage } }) => {
      const keys = Array.from({ length: 40 }, (_, n) => `key-${n}`)
      for (const round of ['1', '2', '3'])
        await storage.write(keys.map((key) => appending(keyed(`${round} ${key}`, { key }))))
      for (const round of ['1', '2', '3']) {
        const taken = await takeAll(storage)
        expect(ids(taken).toSorted()).toEqual(keys.map((key) => `${round} ${key}`).toSorted())
        const results = await storage.write(taken.map((event) => settling(settlement('complete', event))))
        expect(results.every(({ status }) => status === 'applied')).toBe(true)
      }
      expect(await storage.stats()).toMatchObject({ due: 0, leased: 0, blocked: 0 })
    })

    test('a lease tells what waits behind, and completes it together with the first', async ({
      outbox: { storage },
    }) => {
      await append(storage, ...['1', '2', '3', '4'].map((id) => keyed(id)), keyed('x', { key: 'x' }))
      const [first] = await runs(storage, 2)
      expect(first).toMatchObject({ id: '1', behind: [{ id: '2', attempt: 0, key: 'k' }, { id: '3' }] })
      const also = first?.behind?.map(({ id }) => id) ?? []
      const next = keyed('next', { key: 'other' })
      const settle = { ...settlement('complete', first ?? NONE), also } as NonNullable<Outcome['settle']>
      expect(await storage.write([{ ...appending(next), settle }])).toMatchObject([{ status: 'applied' }])
      expect(ids(await takeAll(storage)).toSorted()).toEqual(['4', 'next'])
      expect(await storage.stats()).toMatchObject({ due: 0, leased: 3, blocked: 0 })
    })

    test('a lease tells of nothing behind that the worker can’t handle, and of nothing behind that', async ({
      outbox: { storage },
    }) => {
      await append(
        storage,
        keyed('1'),
        keyed('2', { type: 'other' }),
        keyed('3'),
        keyed('free', { key: null }),
      )
      const taken = await storage.lease({
        ...{ limit: 10, leaseMs: LEASE_MS, behind: 10 },
        addresses: [{ address: 'test.event', limit: 10 }],
      })
      expect(taken.map(({ id, behind = [] }) => [id, behind.length]).toSorted()).toEqual([
        ['1', 0],
        ['free', 0],
      ])
    })

    test('a lease tells of nothing behind that is not due, and of nothing behind that', async ({
      outbox: { storage },
    }) => {
      await append(storage, keyed('1'), keyed('2'))
      const [first] = await takeAll(storage)
      const inPlace = ['a', 'b', 'c'].map((id) =>
        keyed(id, { inPlace: true, due: { inMs: id === 'b' ? 3_600_000 : 0 } }),
      )
      await storage.write([settling(settlement('complete', first ?? NONE), { append: inPlace })])
      const [next] = await runs(storage, 10)
      expect([next?.id, next?.behind]).toEqual(['a', undefined])
    })

    test('what is completed with the first is kept as that is', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2'), keyed('3'))
      const [first] = await runs(storage, 1)
      const settle = { ...settlement('keep', first ?? NONE), also: ['2'] } as NonNullable<Outcome['settle']>
      expect(await storage.write([{ ...appending(), settle }])).toMatchObject([{ status: 'applied' }])
      expect(ids(await takeAll(storage))).toEqual(['3'])
      expect((await place.events()).map(({ id, state }) => `${id} ${state}`).toSorted()).toEqual([
        '1 done',
        '2 done',
        '3 leased',
      ])
    })

    test('the one behind them may be leased by the same write', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2'), keyed('3'), keyed('4'))
      const [first] = await runs(storage, 2)
      const take = { id: '3', leaseMs: LEASE_MS }
      const settle = { ...settlement('complete', first ?? NONE), also: ['2'], take }
      expect(
        await storage.write([{ ...appending(), settle: settle as NonNullable<Outcome['settle']> }]),
      ).toMatchObject([{ status: 'applied' }])
      expect(await takeAll(storage)).toEqual([])
      expect(await rawEvent(place, '3')).toMatchObject({ state: 'leased', attempt: 1 })
      await settle3(storage)
      expect(ids(await takeAll(storage))).toEqual(['4'])
    })

    test('with a lease that is lost nothing behind it is completed', async (place) => {
      const { storage } = place.outbox
      await append(storage, keyed('1'), keyed('2'))
      const [stale] = await runs(storage, 2)
      await place.expireLeases()
      await takeAll(storage)
      const settle = { ...settlement('complete', stale ?? NONE), also: ['2'] } as NonNullable<
        Outcome['settle']
      >
      expect(await storage.write([{ ...appending(), settle }])).toEqual([{ status: 'lost' }])
      expect(await storage.stats()).toMatchObject({ leased: 1, blocked: 1 })
    })

    test('a rolled back transaction leaves no gap that anything waits for', async ({
      outbox: { storage },
    }) => {
      const failure = new Error('rolled back')
      await append(storage, keyed('1'))
      await storage
        .transaction(async (tx) => {
          await storage.write([appending(keyed('gone'))], tx)
          throw failure
        })
        .catch(() => {})
      await append(storage, keyed('2'))
      expect(await inOrder(storage)).toEqual(['1', '2'])
    })

    if (!test.traits.collectsWrites && !test.traits.oneWriter && !test.traits.singleClient) {
      test('a settlement waits for no open transaction, and what that has written is not stranded', async (place) => {
        const { storage } = place.outbox
        await append(storage, keyed('1'))
        const [first] = await takeAll(storage)
        let settled: unknown
        await storage.transaction(async (tx) => {
          await storage.write([appending(keyed('2'))], tx)
          settled = await settle((await place.sibling()).storage, 'complete', first)
        })
        expect(settled).toMatchObject({ status: 'applied', unsure: true })
        await advanced(storage, ['k'])
        expect(await takeAll(storage)).toMatchObject([{ id: '2' }])
      })

      test('asked about a key that an open transaction writes in, it says so and does not wait', async (place) => {
        const { storage } = place.outbox
        await append(storage, keyed('1'))
        const [first] = await takeAll(storage)
        const sibling = await place.sibling()
        await storage.transaction(async (tx) => {
          await storage.write([appending(keyed('2'))], tx)
          await settle(sibling.storage, 'complete', first)
          expect(await sibling.storage.advance?.(['k', 'unknown'])).toMatchObject({ busy: ['k'] })
        })
        expect(await storage.advance?.(['k', 'unknown'])).toMatchObject({ busy: [] })
        expect(await inOrder(storage)).toEqual(['2'])
      })

      test('transactions that overlap are in the order of their commits', async (place) => {
        const { storage } = place.outbox
        const sibling = await place.sibling()
        const { promise: written, resolve: wrote } = Promise.withResolvers<void>()
        const { promise: may, resolve: commit } = Promise.withResolvers<void>()
        const earlier = storage.transaction(async (tx) => {
          await storage.write([appending(keyed('1'))], tx)
          wrote()
          await may
        })
        await written
        const later = sibling.storage.transaction((tx) => sibling.storage.write([appending(keyed('2'))], tx))
        setTimeout(commit, 100)
        await Promise.all([earlier, later])
        expect(await inOrder(storage)).toEqual(['1', '2'])
      })
    }

    if (!test.traits.singleClient) {
      test('is kept by many clients that write and settle at the same time', async (place) => {
        const clients = [place.outbox, await place.sibling(), await place.sibling()].map(
          ({ storage }) => storage,
        )
        const keys = ['a', 'b', 'c']
        const written: Record<string, number> = { a: 0, b: 0, c: 0 }
        const order: Record<string, string[]> = { a: [], b: [], c: [] }
        const handled: Record<string, number> = { a: 0, b: 0, c: 0 }
        const perWriter = 8
        let writing = clients.length
        const writer = async (storage: Storage<Tx, O>, who: number): Promise<void> => {
          for (let n = 0; n < perWriter; n++) {
            const key = keys[(n + who) % keys.length] as string
            await persistently(() => append(storage, keyed(`${who}-${n}`, { key })))
            written[key] = (written[key] ?? 0) + 1
          }
          writing--
        }
        const worker = async (storage: Storage<Tx, O>): Promise<void> => {
          const total = clients.length * perWriter
          await until(async () => {
            for (const event of await persistently(() => takeAll(storage))) {
              const key = event.key as string
              order[key]?.push(event.id)
              const result = await persistently(() => settle(storage, 'complete', event))
              expect(result?.status).toBe('applied')
              handled[key] = (handled[key] ?? 0) + 1
              if (result?.status === 'applied' && result.unsure) await advanced(storage, [key])
            }
            return writing === 0 && Object.values(handled).reduce((a, b) => a + b) === total
          }, 30_000)
        }
        await Promise.all([...clients.map(writer), ...clients.map(worker)])
        for (const key of keys) {
          const ofKey = order[key] ?? []
          expect(ofKey).toHaveLength(written[key] ?? 0)
          for (const who of clients.keys()) {
            const turns = ofKey.filter((id) => id.startsWith(`${who}-`)).map((id) => Number(id.split('-')[1]))
            expect(turns).toEqual(turns.toSorted((one, other) => one - other))
          }
        }
        expect(await place.outbox.storage.stats()).toMatchObject({ due: 0, leased: 0, blocked: 0 })
      })
    }

    test('the net finds what nobody has let go on', async ({ outbox: { storage } }) => {
      await append(storage, keyed('1'), keyed('2'))
      if (!storage.advance) return
      expect(await storage.advance()).toMatchObject({ events: 0, busy: [] })
      expect(await takeAll(storage)).toMatchObject([{ id: '1' }])
    })
  })
}

function settle3<Tx, O>(storage: Storage<Tx, O>): Promise<unknown> {
  return settle(storage, 'complete', { id: '3', attempt: 1, key: 'k' })
}

/** Leases of `k` alone, with so many behind. */
async function runs<Tx, O>(storage: Storage<Tx, O>, behind: number): Promise<readonly LeasedEvent[]> {
  const addresses = [{ address: 'test.event', limit: 10 }]
  const leased = await storage.lease({ limit: 10, leaseMs: LEASE_MS, addresses, behind })
  return leased.filter(({ key }) => key === 'k')
}

const NONE = { id: '', attempt: 0, key: null }

function keyed(id: string, changes: Partial<NewEvent> = {}): NewEvent {
  return newEvent({ id, key: 'k', ...changes })
}

async function append<Tx, O>(storage: Storage<Tx, O>, ...events: NewEvent[]): Promise<void> {
  for (const event of events) await storage.write([appending(event)])
}

function takeAll<Tx, O>(storage: Storage<Tx, O>): Promise<readonly LeasedEvent[]> {
  return takeDue(storage, 100, LEASE_MS)
}

async function settle<Tx, O>(
  storage: Storage<Tx, O>,
  kind: SettlementKind,
  event: Pick<LeasedEvent, 'id' | 'attempt' | 'key'> = NONE,
) {
  const [result] = await storage.write([settling(settlement(kind, event))])
  return result
}

/** Takes and completes whatever there is, one after the other. */
async function inOrder<Tx, O>(storage: Storage<Tx, O>): Promise<string[]> {
  const order: string[] = []
  for (;;) {
    const [...taken] = await takeAll(storage)
    if (taken.length === 0) return order
    for (const event of taken) {
      order.push(event.id)
      await settle(storage, 'complete', event)
    }
  }
}

/** Asks until no transaction that writes in one of the keys is open. */
async function advanced<Tx, O>(storage: Storage<Tx, O>, keys: readonly string[]): Promise<void> {
  await until(async () => (await storage.advance?.(keys))?.busy.length === 0)
}

/** Transactions that meet in one key may be told to try again, by databases that keep nobody waiting. */
async function persistently<R>(work: () => Promise<R>): Promise<R> {
  for (let left = 50; ; left--) {
    try {
      return await work()
    } catch (error) {
      const { transient } = error as { transient?: boolean }
      if (!transient || left === 0) throw error
    }
  }
}

function ids(events: readonly LeasedEvent[]): string[] {
  return events.map(({ id }) => id)
}
