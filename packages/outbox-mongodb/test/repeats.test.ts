import type { MongoClientOptions } from 'mongodb'
import type { Outcome, Settlement } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { FaultyNetwork } from '../../../test/faults/proxy.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { cleanups, completing, event, lease, type Opened, opened, outcome } from './opened.ts'

const url = serverUrl()

const MINUTE = 60_000

/** An outbox whose connection can be cut when the server has done what it was asked, and before it says so. */
async function cuttable(options: MongoClientOptions = {}): Promise<Opened & { network: FaultyNetwork }> {
  const network = await FaultyNetwork.start(url ?? '')
  cleanups.push(() => network.close())
  const place = await opened({}, { heartbeatFrequencyMS: 500, ...options }, network.url)
  return { ...place, network }
}

async function held({ outbox: { storage } }: Opened, ...ids: string[]): Promise<void> {
  await storage.write([outcome({ append: ids.map((id) => event(id)) })])
  expect(await takeDue(storage, ids.length, MINUTE)).toHaveLength(ids.length)
}

const settle = (id: string, kind: object): Outcome =>
  outcome({ settle: { ...kind, id, attempt: 1 } as Settlement })

const SETTLEMENTS = [
  { kind: 'complete', keepMs: 0 },
  { kind: 'complete', keepMs: MINUTE },
  { kind: 'retry', delayMs: MINUTE, error: null, counted: true },
  { kind: 'bury', error: 'because' },
]

describe.skipIf(url === undefined)('MongoDB, an answer that was lost', () => {
  test('of a lease: its events are handed out all the same, leased once', async () => {
    const { db, outbox, network } = await cuttable()
    const { storage } = outbox
    await storage.write([outcome({ append: ['a', 'b', 'c'].map((id) => event(id)) })])
    const cut = network.cutAnswer(/\bupdate\b/)
    const leased = await takeDue(storage, 2, MINUTE)
    await cut
    expect(leased).toMatchObject([
      { id: 'a', attempt: 1 },
      { id: 'b', attempt: 1 },
    ])
    expect(await db.collection('outbox_events').countDocuments({ state: 'leased' })).toBe(2)
    expect(await takeDue(storage, 2, MINUTE)).toMatchObject([{ id: 'c', attempt: 1 }])
  })

  test.each([
    ['the update', 2, /\bupdate\b/],
    ['what was read then', 1, /\bfind\b[\s\S]*\blease\b/],
  ])('of a lease for good, %s: the next one has its events', async (_, times, command) => {
    const { db, outbox, network } = await cuttable({ retryReads: false })
    const { storage } = outbox
    await storage.write([outcome({ append: ['a', 'b', 'c'].map((id) => event(id)) })])
    const cuts = (async () => {
      for (let n = 0; n < times; n++) await network.cutAnswer(command)
    })()
    const failed = takeDue(storage, 2, MINUTE).catch((error: unknown) => error)
    expect(await failed).toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    await cuts
    expect(await db.collection('outbox_events').countDocuments({ state: 'leased' })).toBe(2)
    const [one] = await takeDue(storage, 1, MINUTE)
    expect(one).toMatchObject({ id: 'a', attempt: 1 })
    expect(await takeDue(storage, 2, MINUTE)).toMatchObject([{ id: 'b', attempt: 1 }])
    expect(await takeDue(storage, 2, MINUTE)).toMatchObject([{ id: 'c', attempt: 1 }])
    expect(await takeDue(storage, 2, MINUTE)).toEqual([])
  })

  test('of a lease for good: only who asks for its addresses has its events', async () => {
    const { outbox, network } = await cuttable({ retryReads: false })
    const { storage } = outbox
    const events = ['a', 'b', 'a', 'a'].map((type, n) => event(`${type}${n}`, { type, due: { at: n } }))
    await storage.write([outcome({ append: events })])
    const cut = network.cutAnswer(/\bfind\b[\s\S]*\blease\b/)
    await lease(storage, 3, ['a', 'b']).catch(() => {})
    await cut
    expect((await lease(storage, 10, ['b'])).map(({ id }) => id)).toEqual(['b1'])
    expect(await lease(storage, 10, ['b'])).toEqual([])
    expect((await lease(storage, 1, ['a'])).map(({ id }) => id)).toEqual(['a0'])
    expect((await lease(storage, 10, ['a', 'b'])).map(({ id }) => id)).toEqual(['a2'])
    expect((await lease(storage, 10, ['a', 'b'])).map(({ id }) => id)).toEqual(['a3'])
    expect(await lease(storage, 10, ['a', 'b'])).toEqual([])
  })

  describe.each([
    ['as clients are', {}],
    ['of a client that repeats no writes', { retryWrites: false }],
  ])('%s', (_, options) => {
    test.each(SETTLEMENTS)('of a settlement: it was applied, and is not taken for lost: %o', async (kind) => {
      const place = await cuttable(options)
      const { outbox, network } = place
      await held(place, 'a', 'b', 'c')
      const alone = network.cutAnswer(/\b(update|delete|commitTransaction)\b/)
      expect(await outbox.storage.write([settle('a', kind)])).toEqual([{ status: 'applied' }])
      await alone
      const batch = network.cutAnswer(/\bcommitTransaction\b/)
      const results = await outbox.storage.write([settle('b', kind), settle('c', kind)])
      expect(results).toEqual([{ status: 'applied' }, { status: 'applied' }])
      await batch
    })

    test('of whatever is done with a key: done once, in order', async () => {
      const { db, outbox, network } = await cuttable(options)
      const { storage } = outbox
      const appended = network.cutAnswer(/\bcommitTransaction\b/)
      const keyed = (id: string) => outcome({ append: [event(id, { key: 'k' })] })
      expect(await storage.write([keyed('a')])).toEqual([{ status: 'applied' }])
      await appended
      await storage.write([keyed('b')])
      expect(await storage.write([keyed('a')])).toEqual([{ status: 'applied' }])
      const settled = network.cutAnswer(/\bcommitTransaction\b/)
      const first = await lease(storage, 10)
      expect(first.map(({ id }) => id)).toEqual(['a'])
      expect(await storage.write(completing(first))).toEqual([{ status: 'applied' }])
      await settled
      expect(await storage.write(completing(first))).toEqual([{ status: 'lost' }])
      const last = await lease(storage, 10)
      expect(last.map(({ id }) => id)).toEqual(['b'])
      expect(await storage.write(completing(last))).toEqual([{ status: 'applied', unsure: true }])
      const forgotten = network.cutAnswer(/\bcommitTransaction\b/)
      expect(await storage.advance?.(['k'])).toEqual({ events: 0, busy: [] })
      await forgotten
      expect(await db.collection('outbox_events').countDocuments()).toBe(0)
      expect(await db.collection('outbox_events_keys').countDocuments()).toBe(0)
    })

    test('of a step, of an event, of a payload: each is there once', async () => {
      const place = await cuttable(options)
      const { db, outbox, network, bus } = place
      await held(place, 'a')
      const step = network.cutAnswer(/\bcommitTransaction\b/)
      const done = { kind: 'complete', keepMs: 0, id: 'a', attempt: 1 } as const
      const next = outcome({ settle: done, append: [event('next')] })
      expect(await outbox.storage.write([next])).toEqual([{ status: 'applied' }])
      await step
      const emitted = network.cutAnswer(/\b(update|commitTransaction)\b/)
      await bus.emit('a', {}, { id: 'chosen' })
      await emitted
      const put = network.cutAnswer(/\b(update|commitTransaction)\b/)
      await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
      await put
      expect(await db.collection('outbox_events').distinct('_id')).toEqual(['chosen', 'next'])
      expect(await db.collection('saga_store').countDocuments()).toBe(1)
    })
  })
})
