import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { cleanups, completing, event, lease, type Opened, opened, outcome } from './opened.ts'
import { looked, produce } from './profiled.ts'

const url = serverUrl()

const HOUR_MS = 3_600_000
const OTHERS = 200_000
const ADDRESSES = 100
const KEYS = 10_000
const ONE_KEY = 2_000

/** Events of a hundred addresses, ten thousand keys of which each has a held one and a blocked one, a key of many. */
async function fill(place: Opened): Promise<void> {
  const { outbox } = place
  const ago = { $subtract: ['$$NOW', HOUR_MS] }
  const plain = {
    ...{ type: 'x', body: '{}', headers: '{}', fingerprint: null, created: '$$NOW' },
    ...{ attempt: { $literal: 1 }, uncounted: { $literal: 0 } },
  }
  const numbered = (prefix: string, n: unknown) => ({ $concat: [prefix, { $toString: n }] })
  const others = {
    ...{ _id: numbered('other-', '$n'), address: numbered('other-', { $mod: ['$n', ADDRESSES] }) },
    ...{ state: 'waiting', open: true, visible: { $add: [ago, '$n'] } },
  }
  const into = { $merge: 'outbox_events' }
  await produce(place, OTHERS, { ...plain, ...others }, { $out: 'outbox_events' })
  const isFirst = { $lt: ['$n', KEYS] }
  const keyed = {
    ...{ _id: numbered('keyed-', '$n'), address: 'a', visible: { $add: [ago, '$n'] } },
    ...{ key: numbered('key-', { $mod: ['$n', KEYS] }), place: { $cond: [isFirst, 1, 2] } },
    state: { $cond: [isFirst, 'leased', 'blocked'] },
    open: { $cond: [isFirst, true, '$$REMOVE'] },
  }
  const held = { visible: { $cond: [isFirst, { $add: ['$$NOW', HOUR_MS] }, ago] } }
  await produce(place, 2 * KEYS, { ...plain, ...keyed, ...held }, into)
  const many = {
    ...{ _id: numbered('many-', '$n'), address: 'a', visible: ago, key: 'many', place: '$n' },
    state: { $cond: [{ $eq: ['$n', 0] }, 'dead', 'blocked'] },
    ...{ died: '$$NOW', error: 'because' },
  }
  await produce(place, ONE_KEY, { ...plain, ...many }, into)
  const known = { _id: { $cond: [{ $eq: ['$n', KEYS] }, 'many', numbered('key-', '$n')] }, last: ONE_KEY }
  await produce(place, KEYS + 1, known, { $merge: 'outbox_events_keys' })
  await outbox.initialize()
}

describe.skipIf(url === undefined)('MongoDB, with 200,000 events of other addresses and 10,000 keys', () => {
  let place: Opened
  let undo: typeof cleanups = []

  beforeAll(async () => {
    place = await opened({}, {}, url)
    // It is for all tests, not for the first alone.
    undo = cleanups.splice(0).toReversed()
    await fill(place)
  })

  afterAll(async () => {
    for (const cleanup of undo) await cleanup()
  })

  async function expectNarrow(keys: number, work: () => Promise<unknown>): Promise<void> {
    const commands = await looked(place, work)
    expect(commands.length).toBeGreaterThan(0)
    for (const { command, planSummary, keysExamined, docsExamined } of commands) {
      const seen = `${JSON.stringify(command).slice(0, 200)} ${planSummary}`
      expect(planSummary, seen).toMatch(/^(IXSCAN|DISTINCT_SCAN|IDHACK|$)/)
      expect(keysExamined, seen).toBeLessThanOrEqual(keys)
      expect(docsExamined, seen).toBeLessThanOrEqual(keys)
    }
  }

  const others = (count: number) => Array.from({ length: count }, (_, n) => `other-${n}`)

  test('a lease that finds nothing looks at nothing', async () => {
    await expectNarrow(2, () => lease(place.outbox.storage, 100, ['a', 'nobodys']))
  })

  test('a lease of one address looks at what it takes', async () => {
    const { storage } = place.outbox
    await storage.write([outcome({ append: ['1', '2', '3'].map((id) => event(id)) })])
    await expectNarrow(2 * 3 + 2, async () => {
      expect(await lease(storage, 100)).toHaveLength(3)
    })
  })

  test.each([1, 8, 100])('a lease of %i addresses takes the oldest of all', async (count) => {
    const { storage } = place.outbox
    await expectNarrow(2 * 100 + count, async () => {
      expect(await lease(storage, 100, others(count))).toHaveLength(100)
    })
  })

  test('shares that bind bound what each address is looked at', async () => {
    const { storage } = place.outbox
    const addresses = others(ADDRESSES).map((address) => ({ address, limit: 4 }))
    const leasing = () => storage.lease({ limit: 300, leaseMs: HOUR_MS, addresses })
    await expectNarrow(2 * 4 * ADDRESSES, async () => {
      expect(await leasing()).toHaveLength(300)
    })
  })

  test('more addresses than the server merges are as many looks as it takes', async () => {
    const { storage } = place.outbox
    const unknown = Array.from({ length: 150 }, (_, n) => `unknown-${n}`)
    const addresses = [...others(ADDRESSES), ...unknown]
    let taken: Awaited<ReturnType<typeof lease>> = []
    await expectNarrow(2 * 100 + addresses.length, async () => {
      taken = await lease(storage, 100, addresses)
    })
    expect(taken).toHaveLength(100)
    const numbers = taken.map(({ id }) => Number(id.split('-')[1]))
    expect(numbers).toEqual(numbers.toSorted((one, other) => one - other))
  })

  test('the addresses that wait are looked up one by one', async () => {
    await expectNarrow(ADDRESSES + 5, async () => {
      expect(await place.outbox.storage.waiting()).toHaveLength(ADDRESSES + 1)
    })
  })

  test('an append to a key, and to many', async () => {
    const { storage } = place.outbox
    const to = (key: string, id = `to-${key}`) => outcome({ append: [event(id, { key })] })
    await expectNarrow(2, () => storage.write([to('many')]))
    await expectNarrow(2, () => storage.write([to('new')]))
    const keys = Array.from({ length: 50 }, (_, n) => `key-${n}`)
    await expectNarrow(2 * 50 + 2, () => storage.write(keys.map((key) => to(key, `many to ${key}`))))
  })

  test('settlements of keyed events, one and many', async () => {
    const { storage } = place.outbox
    const held = (n: number) => ({ id: `keyed-${n}`, key: `key-${n}`, attempt: 1 })
    const many = Array.from({ length: 50 }, (_, n) => held(100 + n))
    await expectNarrow(3, async () => {
      expect(await storage.write(completing([held(0)]))).toEqual([{ status: 'applied' }])
    })
    await expectNarrow(2 * 50 + 2, async () => {
      expect(await storage.write(completing(many))).toEqual(many.map(() => ({ status: 'applied' })))
    })
    const next = (await lease(storage, 1_000)).flatMap(({ key }) => key ?? [])
    expect(next.filter((key) => key.startsWith('key-'))).toHaveLength(51)
  })

  test('what waits behind leased events', async () => {
    const { storage } = place.outbox
    const events = place.db.collection<{ _id: string }>('outbox_events')
    const due = { visible: new Date(0) }
    await events.updateMany({ _id: { $in: ['keyed-500', 'keyed-501', 'keyed-502'] } }, { $set: due })
    await events.updateOne({ _id: 'many-0' }, { $set: { state: 'leased', open: true, ...due } })
    const addresses = [{ address: 'a', limit: 4 }]
    await expectNarrow(2 * 4 + 4 * 10 + 4, async () => {
      const taken = await storage.lease({ limit: 4, leaseMs: HOUR_MS, behind: 10, addresses })
      expect(taken.map(({ behind }) => behind?.length).sort()).toEqual([1, 1, 1, 10])
    })
    await events.updateOne({ _id: 'many-0' }, { $set: { state: 'dead' }, $unset: { open: '' } })
  })

  test('keys that nothing holds up and keys that are unknown', async () => {
    const { storage } = place.outbox
    const keys = Array.from({ length: 50 }, (_, n) => `key-${1_000 + n}`)
    const unknown = keys.map((key) => `unknown ${key}`)
    await expectNarrow(2 * 100 + 2, async () => {
      expect(await storage.advance?.([...keys, ...unknown, 'many'])).toEqual({ events: 0, busy: [] })
    })
    expect(await place.db.collection('outbox_events_keys').countDocuments({ _id: /^unknown/ as never })).toBe(
      0,
    )
  })

  test('the net looks at a thousand keys at a time, and at each once', async () => {
    const { db, outbox } = place
    const events = db.collection<{ _id: string }>('outbox_events')
    await events.deleteOne({ _id: 'keyed-9999' })
    await expectNarrow(2 * 1_000 + 2, async () => {
      expect(await outbox.storage.advance?.()).toMatchObject({ busy: [] })
      expect(await outbox.storage.advance?.()).toMatchObject({ busy: [] })
    })
    expect(await events.findOne({ _id: 'keyed-19999' })).toMatchObject({ state: 'waiting' })
  })

  test('a dead letter counts what waits behind it, by its key alone', async () => {
    const { storage } = place.outbox
    await expectNarrow(ONE_KEY + 1, async () => {
      const { events } = await storage.listDead({ limit: 10 })
      expect(events).toMatchObject([{ id: 'many-0', waitingBehind: ONE_KEY }])
    })
  })
})
