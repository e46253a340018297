import type { Document } from 'mongodb'
import type { Lease, Settlement } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { cleanups, completing, event, lease, type Opened, opened, outcome } from './opened.ts'
import { looked, produce } from './profiled.ts'

const url = serverUrl()

/** Events of each kind: due, due later, held, dead, done and past their retention. */
const EACH = 40_000
const HOUR_MS = 3_600_000

/** Fills both collections, each in one statement of the server, and has the indexes made of what is there. */
async function fill(place: Opened): Promise<void> {
  const { db, outbox } = place
  const ago = (ms: number) => ({ $subtract: ['$$NOW', ms] })
  const kinds = [
    { kind: 'due', state: 'waiting', open: true, visible: { $add: [ago(HOUR_MS), '$n'] } },
    { kind: 'later', state: 'waiting', open: true, visible: { $add: ['$$NOW', HOUR_MS, '$n'] } },
    { kind: 'held', state: 'leased', open: true, visible: { $add: ['$$NOW', HOUR_MS, '$n'] } },
    // Many of one moment, as a burial of a whole batch leaves them.
    { kind: 'dead', state: 'dead', died: { $add: [ago(HOUR_MS), { $floor: { $divide: ['$n', 300] } }] } },
    { kind: 'done', state: 'done', visible: { $add: [ago(HOUR_MS), '$n'] } },
  ]
  const branches = kinds.map(({ kind, ...fields }, n) => ({
    case: { $eq: [{ $mod: ['$n', kinds.length] }, n] },
    // biome-ignore lint/suspicious/noThenProperty: the server's name for it
    then: {
      _id: { $concat: [kind, '-', { $toString: '$n' }] },
      visible: ago(HOUR_MS),
      error: 'e',
      ...fields,
    },
  }))
  const plain = { type: 'a', address: 'a', body: '{}', headers: '{}', fingerprint: null, created: '$$NOW' }
  const counts = { attempt: { $literal: 1 }, uncounted: { $literal: 0 } }
  const events = { $mergeObjects: [plain, counts, { $switch: { branches } }] }
  await db.collection('outbox_events').drop()
  await produce(place, EACH * kinds.length, events, { $out: 'outbox_events' })
  const payload = {
    _id: { $concat: ['p', { $toString: '$n' }] },
    data: 'x',
    expires_at: { $add: ['$$NOW', { $cond: [{ $lt: ['$n', 1_000] }, -1, HOUR_MS] }] },
  }
  await produce(place, EACH, payload, { $out: 'saga_store' })
  await outbox.initialize()
}

/** A server that has got used to the plans that its planner takes to when it is not told. */
async function spoilPlans({ db }: Opened, ids: readonly string[]): Promise<void> {
  const events = db.collection<{ _id: string }>('outbox_events')
  const due = { open: true, $expr: { $lte: ['$visible', '$$NOW'] } }
  for (let times = 0; times < 3; times++) {
    for (const filter of [due, { state: 'dead' }, { state: 'done' }, { state: 'leased', attempt: 1 }]) {
      await events.updateMany({ ...filter, _id: { $in: [...ids] } }, { $set: { spoilt: times } })
      await events.find({ ...filter, _id: { $in: [...ids] } }).toArray()
    }
  }
}

const settles = (leases: readonly Lease[], settle: object) =>
  leases.map((lease) => outcome({ settle: { ...lease, ...settle } as Settlement }))

describe.skipIf(url === undefined)('MongoDB, with 200,000 events of all kinds', () => {
  let place: Opened
  let leased: readonly Lease[] = []
  let undo: typeof cleanups = []

  beforeAll(async () => {
    place = await opened({}, {}, url)
    // It is for all tests, not for the first alone.
    undo = cleanups.splice(0).toReversed()
    await fill(place)
    await spoilPlans(
      place,
      Array.from({ length: 400 }, (_, n) => `due-${n * 5}`),
    )
  })

  afterAll(async () => {
    for (const cleanup of undo) await cleanup()
  })

  /** Each command looks at about what it is for: for each id one key, and one more to find out that it is no other. */
  async function expectNarrow(events: number, work: () => Promise<unknown>): Promise<void> {
    const commands = await looked(place, work)
    expect(commands.length).toBeGreaterThan(0)
    for (const { command, planSummary, keysExamined, docsExamined } of commands) {
      const seen = `${JSON.stringify(command).slice(0, 200)} ${planSummary}`
      expect(planSummary, seen).toMatch(/^(IXSCAN|IDHACK)/)
      expect(keysExamined, seen).toBeLessThanOrEqual(2 * events + 2)
      expect(docsExamined, seen).toBeLessThanOrEqual(events + 1)
    }
  }

  test('a lease of 400', async () => {
    const { storage } = place.outbox
    await expectNarrow(400, async () => {
      leased = await lease(storage, 400, ['a', 'nobodys'])
    })
    expect(leased.map(({ id }) => id)).toEqual(Array.from({ length: 400 }, (_, n) => `due-${n * 5}`))
  })

  test('a heartbeat of 400, of which one is lost', async () => {
    const { storage } = place.outbox
    const beating = leased.map(({ id, attempt }, n) => ({ id, attempt: n === 7 ? attempt + 1 : attempt }))
    await expectNarrow(400, async () => {
      expect(await storage.extend(beating, HOUR_MS)).toEqual([beating[7]?.id])
    })
  })

  test('settlements of 150, whatever becomes of their events', async () => {
    const { storage } = place.outbox
    const kinds = [
      { kind: 'complete', keepMs: 0 },
      { kind: 'complete', keepMs: HOUR_MS },
      { kind: 'retry', delayMs: HOUR_MS, error: null, counted: true },
      { kind: 'bury', error: 'because' },
    ]
    const perKind = 100
    for (const [n, kind] of kinds.entries()) {
      const [one, ...others] = leased.slice(n * perKind, (n + 1) * perKind)
      if (!one) throw new Error('nothing was leased')
      await expectNarrow(perKind, () => storage.write(settles(others, kind)))
      await expectNarrow(1, () => storage.write(settles([one], kind)))
    }
    const lost = settles(leased, { kind: 'complete', keepMs: 0 })
    await expectNarrow(400, async () => {
      expect(await storage.write(lost)).toEqual(lost.map(() => ({ status: 'lost' })))
    })
    await expectNarrow(1, () => storage.keep(leased[100]?.id ?? '', HOUR_MS))
  })

  test('dead letters: pages, by id, and what becomes of them', async () => {
    const { storage } = place.outbox
    let page = await storage.listDead({ limit: 150 })
    // Into the middle of those that died at the same moment.
    for (let pages = 0; pages < 3; pages++) {
      await expectNarrow(150, async () => {
        page = await storage.listDead({ limit: 150, ...(page.next && { after: page.next }) })
        expect(page.events).toHaveLength(150)
      })
    }
    const ids = page.events.map(({ id }) => id)
    await expectNarrow(150, () => storage.listDead({ limit: 150, ids }))
    await expectNarrow(75, () => storage.write(settles(page.events.slice(0, 75), { kind: 'revive' })))
    await expectNarrow(75, () => storage.write(settles(page.events.slice(75), { kind: 'discard' })))
  })

  test('a purge of 150 and 150', async () => {
    const { storage } = place.outbox
    await expectNarrow(150, async () => {
      expect(await storage.purge(150)).toMatchObject({ events: 150 })
    })
  })

  test('a payload', async () => {
    await expectNarrow(1, () => place.outbox.storage.getPayload('p5000'))
  })

  test('counts look at what they count and at what is open, once', async () => {
    const commands = await looked(place, () => place.outbox.stats())
    const kinds = Object.fromEntries(
      commands.map(({ planSummary, docsExamined }) => [planSummary, docsExamined]),
    )
    expect(Object.keys(kinds).sort()).toEqual([
      'IXSCAN { died: 1, _id: 1 }',
      'IXSCAN { key: 1, place: 1 }',
      'IXSCAN { open: 1, address: 1, visible: 1, _id: 1 }',
    ])
    for (const { docsExamined } of commands) expect(docsExamined).toBeLessThanOrEqual(2 * EACH + 1_000)
  })

  test('no statement leaves a choice to the planner', async () => {
    const { client, outbox } = await opened()
    const { storage } = outbox
    const sent: Document[] = []
    client.on('commandStarted', ({ command }) => sent.push(command))
    await storage.write([outcome({ append: ['a', 'b', 'c'].map((id) => event(id)) })])
    const some = await takeDue(storage, 10, HOUR_MS)
    await storage.extend(some, HOUR_MS)
    await storage.write(settles(some, { kind: 'bury', error: 'because' }))
    await storage.listDead({ limit: 3 })
    await storage.listDead({ limit: 3, ids: ['a', 'b'] })
    await storage.write(settles(some.slice(0, 2), { kind: 'discard' }))
    await storage.write(settles(some.slice(2), { kind: 'revive' }))
    await storage.write([outcome({ remove: ['p', 'q'] })])
    await storage.keep('c', 1)
    await storage.getPayload('p')
    await storage.purge(3)
    await outbox.stats()
    const pairs = ['k', 'l', 'm'].flatMap((key) => [1, 2].map((n) => event(`${key}${n}`, { key })))
    await storage.write([outcome({ append: pairs.slice(0, 2) })])
    await storage.write([outcome({ append: pairs })])
    for (let round = 0; round < 2; round++) {
      const [one, ...others] = await takeDue(storage, 10, HOUR_MS)
      await storage.write(completing(others))
      await storage.write(settles(one ? [one] : [], { kind: 'bury', error: 'because' }))
      await storage.listDead({ limit: 3 })
      await storage.write(settles(one ? [one] : [], { kind: 'discard' }))
    }
    await storage.advance?.(['k', 'l', 'unknown'])
    await storage.advance?.()
    for (const share of [1, 2, 3]) {
      const addresses = ['a', 'b'].map((address) => ({ address, limit: share }))
      await storage.lease({ limit: 3, leaseMs: HOUR_MS, addresses })
    }
    const statements = sent.flatMap((command) => command['updates'] ?? command['deletes'] ?? [command])
    const looks = statements.filter(({ q, query, filter, pipeline }) => q ?? query ?? filter ?? pipeline)
    expect(looks.length).toBeGreaterThan(40)
    for (const { q, query, hint } of looks) {
      if (hint === undefined) expect(q ?? query).toEqual({ _id: expect.any(String) })
    }
  })
})
