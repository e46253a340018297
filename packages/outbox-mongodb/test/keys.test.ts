import { OutboxEventBus } from 'outbox-core'
import { takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { MongoDBOutbox } from '../src/index.ts'
import { cleanups, completing, event, lease, type Opened, opened, outcome } from './opened.ts'

const url = serverUrl()

const appending = (...ids: string[]) => ids.map((id) => outcome({ append: [event(id, { key: 'k' })] }))

const settling = (one: { id: string; attempt: number }, kind: object) =>
  outcome({ settle: { key: 'k', ...one, ...kind } as never })

async function states({ db }: Opened): Promise<Record<string, unknown>> {
  const found = await db.collection('outbox_events').find().sort({ place: 1 }).toArray()
  return Object.fromEntries(found.map(({ _id, state }) => [_id, state]))
}

async function known({ db }: Opened): Promise<unknown[]> {
  return (await db.collection('outbox_events_keys').find().sort({ _id: 1 }).toArray()).map(({ _id }) => _id)
}

describe.skipIf(url === undefined)('MongoDB, keys', () => {
  test('counts of commands: an append 4, a settlement 3, its doubts 4; of many keys 5, 4 and 4', async () => {
    const { outbox, during } = await opened()
    const { storage } = outbox
    const append = ['findAndModify', 'aggregate', 'update', 'commitTransaction']
    expect(await during(() => storage.write(appending('1')))).toEqual(append)
    expect(await during(() => storage.write(appending('2')))).toEqual(append)
    const inTransaction = () => storage.transaction((tx) => storage.write(appending('3'), tx))
    expect(await during(inTransaction)).toEqual(append)
    const first = await lease(storage, 10)
    const going = ['delete', 'findAndModify', 'commitTransaction']
    expect(await during(() => storage.write(completing(first)))).toEqual(going)
    expect(await during(async () => storage.write(completing(await lease(storage, 1))))).toEqual([
      ...['find', 'update', 'find'],
      ...going,
    ])
    const [last] = await lease(storage, 10)
    const bury = { kind: 'bury', error: 'because' }
    if (!last) throw new Error('nothing was leased')
    expect(await during(() => storage.write([settling(last, bury)]))).toEqual(['update'])
    expect(await during(() => storage.listDead({ limit: 10 }))).toEqual(['find', 'aggregate'])
    expect(await during(() => storage.write([settling(last, { kind: 'discard' })]))).toEqual(going)
    const doubts = ['aggregate', 'aggregate', 'delete', 'commitTransaction']
    expect(await during(async () => storage.advance?.(['k']))).toEqual(doubts)
    const keys = Array.from({ length: 50 }, (_, n) => `key-${n}`)
    const many = () => keys.map((key) => outcome({ append: [event(`${key} ${++id}`, { key })] }))
    let id = 0
    const appendMany = ['update', 'find', 'aggregate', 'update', 'commitTransaction']
    expect(await during(() => storage.write(many()))).toEqual(appendMany)
    await storage.write(many())
    const firsts = await lease(storage, 100)
    const goingMany = ['delete', 'aggregate', 'update', 'commitTransaction']
    expect(await during(() => storage.write(completing(firsts)))).toEqual(goingMany)
    await storage.write(completing(await lease(storage, 100)))
    expect(await during(async () => storage.advance?.(keys))).toEqual(doubts)
    expect(await during(async () => storage.advance?.())).toEqual(['find'])
  })

  test('counts of commands: what waits behind leased events 1, to complete it with them 1, to lease the one behind 1', async () => {
    const place = await opened()
    const { outbox, during } = place
    const { storage } = outbox
    const ids = Array.from({ length: 10 }, (_, n) => `${n}`)
    await storage.write(appending(...ids))
    await storage.write([outcome({ append: [event('x1', { key: 'x' }), event('x2', { key: 'x' })] })])
    const request = { limit: 10, leaseMs: 60_000, behind: 5, addresses: [{ address: 'a', limit: 10 }] }
    let taken: Awaited<ReturnType<typeof storage.lease>> = []
    const leasing = await during(async () => {
      taken = await storage.lease(request)
    })
    expect(leasing).toEqual(['find', 'update', 'find', 'aggregate'])
    const behind = taken.map(({ behind = [] }) => behind.map(({ id }) => id))
    expect(behind).toEqual([['1', '2', '3', '4', '5'], ['x2']])
    const [k, x] = completing(taken).map(({ settle }, n) => ({ ...settle, also: behind[n] }))
    const take = { id: '6', leaseMs: 60_000 }
    const settles = [{ ...k, take }, x].map((settle) => outcome({ settle: settle as never }))
    const settling = await during(async () => {
      expect(await storage.write(settles)).toEqual([
        { status: 'applied' },
        { status: 'applied', unsure: true },
      ])
    })
    expect(settling).toEqual(['delete', 'delete', 'aggregate', 'update', 'update', 'commitTransaction'])
    expect(await states(place)).toEqual({ 6: 'leased', 7: 'blocked', 8: 'blocked', 9: 'blocked' })
    expect(await during(() => storage.lease(request))).toEqual(['find'])
    await storage.write([outcome({ append: [event('free')] })])
    expect(await during(() => storage.lease(request))).toEqual(['find', 'update', 'find'])
  })

  test('what is put in the place of another costs a look at that place', async () => {
    const place = await opened()
    const { outbox, during } = place
    const { storage } = outbox
    await storage.write(appending('1', '2'))
    for (const next of ['a', 'b']) {
      const [held] = completing(await lease(storage, 1))
      const append = ['', "'"].map((more) => event(`${next}${more}`, { key: 'k', inPlace: true }))
      const replacing = [{ ...held, append, put: [], remove: [] }]
      const commands = await during(async () => {
        expect(await storage.write(replacing)).toEqual([{ status: 'applied' }])
      })
      expect(commands).toEqual(['find', 'delete', 'update', 'commitTransaction'])
    }
    expect(await states(place)).toEqual({ b: 'waiting', "b'": 'blocked', "a'": 'blocked', 2: 'blocked' })
    const order: string[] = []
    for (let left = 4; left > 0; left--) {
      const taken = await lease(storage, 10)
      order.push(...taken.map(({ id }) => id))
      await storage.write(completing(taken))
    }
    expect(order).toEqual(['b', "b'", "a'", '2'])
  })

  test('what is put in the place of another is before all that the same write appends', async () => {
    const place = await opened()
    const { storage } = place.outbox
    await storage.write(appending('1'))
    const [held] = completing(await lease(storage, 1))
    const later = [event('later', { key: 'k' }), event('next', { key: 'k', inPlace: true })]
    const results = await storage.write([
      { ...held, append: later, put: [], remove: [] },
      ...appending('last'),
    ])
    expect(results).toEqual([{ status: 'applied' }, { status: 'applied' }])
    expect(await states(place)).toEqual({ next: 'waiting', later: 'blocked', last: 'blocked' })
  })

  test('a key that no event has any more is forgotten', async () => {
    const place = await opened()
    const { storage } = place.outbox
    await storage.write(appending('1', '2'))
    const [first] = await storage.write(completing(await lease(storage, 10)))
    expect(first).toEqual({ status: 'applied' })
    expect(await known(place)).toEqual(['k'])
    const [last] = await storage.write(completing(await lease(storage, 10)))
    expect(last).toEqual({ status: 'applied', unsure: true })
    expect(await storage.advance?.(['k', 'unknown'])).toEqual({ events: 0, busy: [] })
    expect(await known(place)).toEqual([])
  })

  test('an event that is there already keeps nothing behind it', async () => {
    const place = await opened()
    const { storage } = place.outbox
    await storage.write(appending('1'))
    const [one] = await lease(storage, 1)
    await storage.write([settling(one ?? { id: '', attempt: 0 }, { kind: 'complete', keepMs: 60_000 })])
    const chosen = event('1', { key: 'k', fingerprint: 'f' })
    const results = await storage.write([outcome({ append: [chosen] }), ...appending('2', '3')])
    expect(results).toMatchObject([{ status: 'duplicate' }, { status: 'applied' }, { status: 'applied' }])
    expect(await states(place)).toEqual({ 1: 'done', 2: 'waiting', 3: 'blocked' })
    await storage.write(appending('2', '4'))
    expect(await states(place)).toEqual({ 1: 'done', 2: 'waiting', 3: 'blocked', 4: 'blocked' })
  })

  test('a transaction that has looked before a settlement writes behind what was settled, and is not forgotten', async () => {
    const place = await opened()
    const { client, outbox, db } = place
    const { storage } = outbox
    await db.collection('orders').insertOne({ n: 1 })
    await storage.write(appending('1'))
    const held = await lease(storage, 1)
    await client.withSession(async (session) => {
      session.startTransaction()
      await db.collection('orders').findOne({}, { session })
      expect(await storage.write(completing(held))).toEqual([{ status: 'applied', unsure: true }])
      await storage.write(appending('2'), session)
      expect(await storage.advance?.(['k'])).toEqual({ events: 0, busy: ['k'] })
      await session.commitTransaction()
    })
    expect(await states(place)).toEqual({ 2: 'blocked' })
    expect(await storage.advance?.(['k'])).toEqual({ events: 1, busy: [] })
    expect(await lease(storage, 10)).toMatchObject([{ id: '2' }])
  })

  test('a transaction that has looked before a settlement can’t write once that has been looked after', async () => {
    const place = await opened()
    const { client, outbox, db } = place
    const { storage } = outbox
    await db.collection('orders').insertOne({ n: 1 })
    await storage.write(appending('1'))
    const held = await lease(storage, 1)
    await client.withSession(async (session) => {
      session.startTransaction()
      await db.collection('orders').findOne({}, { session })
      await storage.write(completing(held))
      expect(await storage.advance?.(['k'])).toEqual({ events: 0, busy: [] })
      const late = storage.write(appending('2'), session)
      await expect(late).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    })
    await storage.write(appending('3'))
    expect(await states(place)).toEqual({ 3: 'waiting' })
  })

  test('of many keys, those that are written in are busy, and no other', async () => {
    const place = await opened()
    const { outbox } = place
    const { storage } = outbox
    const keys = Array.from({ length: 20 }, (_, n) => `key-${n}`)
    await storage.write(keys.map((key) => outcome({ append: [event(`1 ${key}`, { key })] })))
    await storage.write(completing(await lease(storage, 100)))
    await storage.transaction(async (tx) => {
      await storage.write([outcome({ append: [event('2', { key: 'key-7' })] })], tx)
      expect(await storage.advance?.(keys)).toEqual({ events: 0, busy: ['key-7'] })
      expect(await known(place)).toEqual(['key-7'])
    })
    expect(await storage.advance?.(keys)).toEqual({ events: 0, busy: [] })
    expect(await known(place)).toEqual(['key-7'])
  })

  test('the net finds what a worker has left behind that was killed before it could look after it', async () => {
    const place = await opened()
    const { storage } = place.outbox
    await storage.write(appending('1', '2', '3'))
    await place.db.collection<{ _id: string }>('outbox_events').deleteOne({ _id: '1' })
    expect(await lease(storage, 10)).toEqual([])
    expect(await storage.advance?.()).toEqual({ events: 1, busy: [] })
    expect(await storage.advance?.()).toEqual({ events: 0, busy: [] })
    expect(await lease(storage, 10)).toMatchObject([{ id: '2' }])
  })

  test('who writes without a transaction waits for one that has written in the same key', async () => {
    const { outbox } = await opened()
    const { storage } = outbox
    let second: Promise<unknown> | undefined
    let isWritten = false
    await storage.transaction(async (tx) => {
      await storage.write(appending('1'), tx)
      second = storage.write(appending('2')).then(() => {
        isWritten = true
      })
      await storage.write([outcome({ append: [event('x', { key: 'x' })] })])
      await new Promise((resolve) => setTimeout(resolve, 200))
      expect(isWritten).toBe(false)
    })
    await second
    expect((await lease(storage, 10)).map(({ id }) => id).sort()).toEqual(['1', 'x'])
  })

  test('emitters of one key, in transactions that the driver repeats, all come to their end', async () => {
    const { client, outbox, db } = await opened()
    const { storage } = outbox
    await db.createCollection('orders')
    const emit = (n: number) =>
      client.withSession((session) =>
        session.withTransaction(async () => {
          await db.collection('orders').insertOne({ n }, { session })
          await storage.write(appending(`${n}`), session)
        }),
      )
    await Promise.all(Array.from({ length: 8 }, (_, n) => emit(n)))
    const found = await db.collection('outbox_events').find().sort({ place: 1 }).toArray()
    expect(found.map(({ place }) => place)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    expect(found.map(({ state }) => state)).toEqual(['waiting', ...Array(7).fill('blocked')])
  })

  test('a process that watches is woken when the next of a key may be taken, and not before', async () => {
    const { client, database, outbox } = await opened()
    const { storage } = outbox
    const watching = new MongoDBOutbox(client, { database, watch: true, logger: false })
    let woken = 0
    const end = await watching.storage.listen?.(() => woken++)
    cleanups.push(async () => end?.())
    const wokenBy = async (work: () => Promise<unknown>): Promise<boolean> => {
      await new Promise((resolve) => setTimeout(resolve, 300))
      const before = woken
      await work()
      return until(() => woken > before, 1_000).then(
        () => true,
        () => false,
      )
    }
    expect(await wokenBy(() => storage.write(appending('1')))).toBe(true)
    expect(await wokenBy(() => storage.write(appending('2')))).toBe(false)
    let held = await lease(storage, 10)
    expect(await wokenBy(() => storage.write(completing(held)))).toBe(true)
    held = await lease(storage, 10)
    const [two = { id: '', attempt: 0 }] = held
    const retry = { kind: 'retry', delayMs: 0, error: null, counted: true }
    expect(await wokenBy(() => storage.write([settling(two, retry)]))).toBe(false)
  })

  test('keys are only text', async () => {
    const { outbox } = await opened()
    const { storage } = outbox
    const keys = ['$key', '$$ROOT', '{"$gt":""}', 'a.b', '__proto__', 'é𝄞', 'k'.repeat(255)]
    for (const round of [1, 2]) {
      await storage.write(keys.map((key, n) => outcome({ append: [event(`${round}-${n}`, { key })] })))
    }
    for (const round of [1, 2]) {
      const taken = await lease(storage, 100)
      const ids = Object.fromEntries(taken.map(({ id, key }) => [id, key]))
      expect(ids).toEqual(Object.fromEntries(keys.map((key, n) => [`${round}-${n}`, key])))
      await storage.write(completing(taken))
    }
    expect(await storage.advance?.(keys)).toEqual({ events: 0, busy: [] })
  })

  test('a bus keeps the order of a key among many workers, and loses none', async () => {
    const { client, database, outbox } = await opened()
    const buses = [0, 1, 2].map(
      () =>
        new OutboxEventBus(new MongoDBOutbox(client, { database, logger: false }), { poll: { max: '50ms' } }),
    )
    const { storage } = outbox
    const seen: string[] = []
    for (const bus of buses) {
      bus.on('a', async (one) => {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 5))
        seen.push(one.id)
      })
      await bus.start()
    }
    const ids = Array.from({ length: 40 }, (_, n) => `event-${n}`)
    for (const id of ids) await storage.write(appending(id))
    await until(() => seen.length === ids.length, 20_000)
    await Promise.all(buses.map((bus) => bus.stop()))
    expect(seen).toEqual(ids)
    expect(await takeDue(storage, 10, 1_000)).toEqual([])
  })
})
