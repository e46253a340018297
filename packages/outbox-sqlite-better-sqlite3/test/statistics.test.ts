import type Database from 'better-sqlite3'
import { takeDue } from 'outbox-core/testing'
import { beforeAll, describe, expect, test } from 'vitest'
import { appending, connect, event, newFile, outboxOn } from './opened.ts'

const EVENTS = 'outbox_events'
const PAYLOADS = 'saga_store'
const KEY = (table: string): string => `sqlite_autoindex_${table}_1`
const MANY = 200_000

type Rows = readonly (readonly [table: string, index: string | null, numbers: string])[]

/** What sqlite_stat1 may hold: numbers that make reading all of a table look cheap, or its index useless. */
const STATISTICS: Record<string, Rows> = {
  'none at all': [],
  'of an outbox with one event': [
    [EVENTS, null, '1'],
    [EVENTS, KEY(EVENTS), '1 1'],
    [EVENTS, `${EVENTS}_by_address`, '1 1 1 1'],
    [EVENTS, `${EVENTS}_keys`, '1 1 1 1 1'],
    [EVENTS, `${EVENTS}_done`, '1 1'],
    [EVENTS, `${EVENTS}_dead`, '1 1 1'],
    [PAYLOADS, KEY(PAYLOADS), '1 1'],
    [PAYLOADS, `${PAYLOADS}_expires`, '1 1'],
  ],
  'of an empty one': [
    [EVENTS, null, '0'],
    [EVENTS, `${EVENTS}_by_address`, '0 0 0 0'],
    [EVENTS, `${EVENTS}_keys`, '0 0 0 0 0'],
    [EVENTS, `${EVENTS}_done`, '0 0'],
    [EVENTS, `${EVENTS}_dead`, '0 0 0'],
    [PAYLOADS, null, '0'],
    [PAYLOADS, `${PAYLOADS}_expires`, '0 0'],
  ],
  'of one whose keys tell nothing apart': [
    [EVENTS, KEY(EVENTS), '1000000 1000000'],
    [EVENTS, `${EVENTS}_by_address`, '2 2 1 1'],
    [EVENTS, `${EVENTS}_keys`, '1000000 1000000 1000000 1 1'],
    [EVENTS, `${EVENTS}_done`, '1 1'],
    [EVENTS, `${EVENTS}_dead`, '1 1 1'],
    [PAYLOADS, KEY(PAYLOADS), '1000000 1000000'],
    [PAYLOADS, `${PAYLOADS}_expires`, '1 1'],
  ],
  'of one whose indexes are huge': [
    [EVENTS, null, '10'],
    [EVENTS, KEY(EVENTS), '10 1'],
    [EVENTS, `${EVENTS}_by_address`, '100000000 100000000 100000000 100000000 noskipscan'],
    [EVENTS, `${EVENTS}_keys`, '100000000 100000000 100000000 100000000 100000000'],
    [EVENTS, `${EVENTS}_done`, '100000000 100000000'],
    [EVENTS, `${EVENTS}_dead`, '100000000 100000000 100000000'],
    [PAYLOADS, null, '10'],
    [PAYLOADS, `${PAYLOADS}_expires`, '100000000 100000000'],
  ],
}

/** The one thing that each statement may read of our tables. */
const INTENDED: Record<string, RegExp> = {
  key: new RegExp(`^SEARCH (main.(${EVENTS}|${PAYLOADS})|e) USING INDEX ${KEY('\\w+')} \\(id=\\?\\)$`),
  row: /^SEARCH main\.\w+ USING INTEGER PRIMARY KEY \(rowid=\?\)$/,
  range:
    /^SEARCH (main\.\w+|e) USING (COVERING )?INDEX \w+_(done|dead|expires) \((visible_at|died_at|expires_at)[<>]\?\)$/,
  address:
    /^SEARCH main\.\w+ (EXISTS )?USING INDEX \w+_by_address \(<expr>=\? AND visible_at[<>]\?( AND visible_at<\?)?\)$/,
  nextAddress: /^SEARCH main\.\w+ USING INDEX \w+_by_address \(<expr>>\?\)$/,
  inKey: /^SEARCH (main\.\w+|behind) USING (COVERING )?INDEX \w+_keys \(key=\?\)$/,
  // A count of the blocked reads what has a key, most of which is.
  keys: /^SEARCH main\.\w+ USING COVERING INDEX \w+_keys \(key>\?\)$/,
  // A count of the dead reads their own partial index, and nothing but it.
  dead: /^SCAN main\.outbox_events USING COVERING INDEX outbox_events_dead$/,
}

/** An outbox with so many rows of every state, each statement of which is kept. */
async function crowded() {
  const texts = new Set<string>()
  const db = connect(newFile(), { verbose: (text) => texts.add(String(text)) })
  const { storage } = await (async () => {
    const outbox = outboxOn(db)
    await outbox.initialize()
    return outbox
  })()
  const numbers = `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ${MANY})`
  const far = 4_000_000_000_000
  for (const [state, visible] of [
    [0, far],
    [1, far],
    [2, far],
    [3, 1],
  ]) {
    db.exec(`INSERT INTO ${EVENTS} (id, type, body, headers, created_at, visible_at, attempt, state, error, died_at)
      ${numbers} SELECT 'of-${state}-' || n, 'a', '{}', '{}', n, ${visible} + n, 1, ${state}, 'x', ${state === 3 ? 'n' : 'NULL'} FROM n`)
  }
  db.exec(`INSERT INTO ${PAYLOADS} ${numbers} SELECT 'of-' || n, x'00', ${far} FROM n`)
  db.exec('ANALYZE; DELETE FROM sqlite_stat1; DELETE FROM sqlite_stat4')
  texts.clear()
  await useAll(storage)
  return { db, texts: [...texts].filter((text) => /^(SELECT|INSERT|UPDATE|DELETE)/.test(text.trim())) }
}

/** Runs every statement once. */
async function useAll(storage: ReturnType<typeof outboxOn>['storage']): Promise<void> {
  const ids = ['a', 'b', 'c', 'd', 'e', 'f']
  await storage.write([appending(...ids.map((id) => event(id)))])
  const named = appending(event('g', { fingerprint: 'g' }))
  await storage.write([named])
  await storage.write([named])
  expect((await takeDue(storage, 10, 60_000)).map(({ id }) => id)).toEqual([...ids, 'g'])
  const lease = (id: string, attempt = 1) => ({ id, attempt })
  expect(
    await storage.extend(
      ids.map((id) => lease(id)),
      60_000,
    ),
  ).toEqual([])
  const settle = async (settlement: object) =>
    expect(await storage.write([{ settle: settlement as never, ...appending() }])).toEqual([
      { status: 'applied' },
    ])
  await settle({ ...lease('a'), kind: 'complete', keepMs: 0 })
  await settle({ ...lease('b'), kind: 'complete', keepMs: 60_000 })
  await storage.keep('b', 1)
  await settle({ ...lease('c'), kind: 'retry', delayMs: 60_000, error: null, counted: false })
  await settle({ ...lease('d'), kind: 'bury', error: 'x' })
  await settle({ ...lease('d'), kind: 'revive' })
  await settle({ ...lease('e'), kind: 'bury', error: 'x' })
  await storage.write([{ settle: { ...lease('e'), kind: 'discard' }, ...named }])
  await settle({ ...lease('e'), kind: 'discard' })
  await storage.write([{ settle: { ...lease('f'), kind: 'complete', keepMs: 0 }, ...named }])
  await storage.write([{ ...appending(), put: [{ id: 'p', data: Uint8Array.of(1), expires: { inMs: -1 } }] }])
  await storage.write([{ ...appending(), remove: ['q'] }])
  await storage.getPayload('p')
  expect(await storage.purge(10)).toEqual({ events: 1, payloads: 1 })
  await storage.write([appending(...['h', 'i', 'j'].map((id) => event(id, { key: 'k' })))])
  await takeDue(storage, 10, 60_000)
  const inPlace = event('h2', { key: 'k', inPlace: true })
  await storage.write([
    { ...appending(inPlace), settle: { ...lease('h'), key: 'k', kind: 'complete', keepMs: 0 } as never },
  ])
  await takeDue(storage, 10, 60_000)
  await settle({ ...lease('h2'), key: 'k', kind: 'complete', keepMs: 0 })
  await takeDue(storage, 10, 60_000)
  await settle({ ...lease('i'), key: 'k', kind: 'bury', error: 'x', skip: true })
  const many = Array.from({ length: 20 }, (_, n) => ({ address: `none-${n}`, limit: 10 }))
  expect(await storage.lease({ limit: 10, leaseMs: 60_000, addresses: many })).toEqual([])
  for (const keepMs of [0, 60_000]) {
    const run = [1, 2, 3].map((n) => `run-${keepMs}-${n}`)
    await storage.write([
      appending(...run.map((id) => event(id, { key: 'run', type: 'run', address: 'run' }))),
    ])
    const share = { address: 'run', limit: 10 }
    const leased = await storage.lease({ limit: 10, leaseMs: 60_000, addresses: [share], behind: 10 })
    expect(leased.at(-1)?.behind).toHaveLength(2)
    const [id, also, next] = run as [string, string, string]
    const take = { id: next, leaseMs: 60_000 }
    await settle({ ...lease(id), key: 'run', kind: 'complete', keepMs, also: [also], take })
    await settle({ ...lease(next), key: 'run', kind: 'complete', keepMs })
  }
  await storage.listDead({ limit: 10 })
  await storage.listDead({ limit: 10, ids: ['of-3-7'] })
  await storage.stats()
}

describe('plans', () => {
  let place: { readonly db: Database.Database; readonly texts: readonly string[] }
  beforeAll(async () => {
    place = await crowded()
  })

  test('are looked at for every statement', () => {
    // due, the next address, lease, extend, keep, seven that settle, two that hold, three of keys, two that append,
    // fingerprint, three of payloads, two that purge of each kind, two of dead letters, four of statistics
    expect(place.texts.length).toBeGreaterThanOrEqual(35)
  })

  test.each(Object.entries(STATISTICS))('are the same with statistics %s', (_name, rows) => {
    const { db, texts } = place
    db.exec('DELETE FROM sqlite_stat1')
    for (const row of rows) db.prepare('INSERT INTO sqlite_stat1 VALUES (?, ?, ?)').run(row)
    // Reads them again.
    db.exec('ANALYZE sqlite_schema')
    expect(unintended(db, texts)).toEqual([])
  })

  test('are the same with what PRAGMA optimize and ANALYZE find', async () => {
    const { db, texts } = place
    db.pragma('optimize = 0x10002')
    expect(unintended(db, texts)).toEqual([])
    db.exec('ANALYZE')
    expect(unintended(db, texts)).toEqual([])
  })
})

/** Statements that read our tables in another way than is meant for them. */
function unintended(db: Database.Database, texts: readonly string[]): unknown[] {
  return texts.flatMap((text) => {
    const plan = db.prepare(`EXPLAIN QUERY PLAN ${text}`).all() as { detail: string }[]
    // What is inserted is sorted as it was given.
    const ours = text.includes('json_each')
      ? /outbox_events|saga_store/
      : /outbox_events|saga_store|TEMP B-TREE/
    const wrong = plan
      .map(({ detail }) => detail)
      .filter(
        (detail) => ours.test(detail) && !Object.values(INTENDED).some((pattern) => pattern.test(detail)),
      )
    return wrong.length > 0 ? [{ text, wrong }] : []
  })
}
