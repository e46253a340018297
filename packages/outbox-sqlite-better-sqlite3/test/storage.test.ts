import { spawn } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Database from 'better-sqlite3'
import { type NewEvent, NotInitializedError, type Outcome, StorageError } from 'outbox-core'
import { sleep, until } from 'outbox-core/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { SqliteBetterSqlite3Outbox, type SqliteBetterSqlite3OutboxOptions } from '../src/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'outbox-sqlite-storage-'))
const opened: Database.Database[] = []
afterAll(() => {
  for (const db of opened) db.close()
  rmSync(folder, { recursive: true, force: true })
})

let files = 0
const file = (): string => join(folder, `${files++}.db`)

function connect(path: string, options: Database.Options = {}): Database.Database {
  const db = new Database(path, { timeout: 0, ...options })
  opened.push(db)
  return db
}

function outboxOn(db: Database.Database, options: SqliteBetterSqlite3OutboxOptions = {}) {
  return new SqliteBetterSqlite3Outbox(db, { logger: false, lockTimeout: '10s', ...options })
}

async function open(path: string = file(), options?: Database.Options) {
  const db = connect(path, options)
  const outbox = outboxOn(db)
  await outbox.initialize()
  return { db, path, outbox, storage: outbox.storage }
}

const event = (id: string, more: Partial<NewEvent> = {}): NewEvent => ({
  ...{ id, type: id, body: '{}', headers: {}, due: { inMs: 0 }, fingerprint: null },
  ...more,
})

const appending = (...append: NewEvent[]): Outcome => ({ append, put: [], remove: [] })

describe('initialize', () => {
  test('creates the tables of every outbox in one database', async () => {
    const { db } = await open()
    const second = outboxOn(db, { tables: { events: 'second_events' } })
    await second.initialize()
    await second.initialize()
    expect(await second.stats()).toMatchObject({ due: 0 })
    expect(db.prepare('SELECT events, version FROM outbox_migrations ORDER BY rowid').all()).toEqual([
      { events: 'outbox_events', version: 1 },
      { events: 'second_events', version: 1 },
    ])
  })

  test('leaves nothing behind when a migration fails halfway', async () => {
    const db = connect(file())
    db.exec('CREATE TABLE mine (n INTEGER); CREATE INDEX outbox_events_dead ON mine (n)')
    await expect(outboxOn(db).initialize()).rejects.toThrow(/outbox_events_dead already exists/)
    expect(db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").pluck().all()).toEqual(['mine'])
    db.exec('DROP INDEX outbox_events_dead')
    await outboxOn(db).initialize()
    expect(await outboxOn(db).stats()).toMatchObject({ due: 0 })
  })

  test('runs each migration once when several processes start together', async () => {
    const path = file()
    const script = fileURLToPath(new URL('initialize.ts', import.meta.url))
    const starts = Array.from(
      { length: 4 },
      () =>
        new Promise<number | null>((resolve) => {
          spawn(process.execPath, ['--conditions=source', script, path], { stdio: 'inherit' }).on(
            'close',
            resolve,
          )
        }),
    )
    expect(await Promise.all(starts)).toEqual([0, 0, 0, 0])
    expect(connect(path).prepare('SELECT count(*) FROM outbox_migrations').pluck().get()).toBe(1)
  })
})

describe('a file that is locked when a connection first looks at it', () => {
  test('is waited for by initialize, listen, lease and write', async () => {
    const { path } = await open()
    const elsewhere = connect(path)
    const locked = async <R>(start: () => Promise<R>): Promise<R> => {
      elsewhere.exec('BEGIN EXCLUSIVE')
      const started = start()
      await sleep(20)
      elsewhere.exec('COMMIT')
      return started
    }
    await locked(() => outboxOn(connect(path)).initialize())
    const { storage } = outboxOn(connect(path))
    expect(await locked(() => storage.lease(10, 60_000))).toEqual([])
    const written = await locked(() => outboxOn(connect(path)).storage.write([appending(event('a'))]))
    expect(written).toEqual([{ status: 'applied' }])
    let wakes = 0
    const stop = await locked(async () => outboxOn(connect(path)).storage.listen?.(() => wakes++))
    await sleep(30)
    elsewhere.exec('CREATE TABLE by_others (n INTEGER)')
    await until(() => wakes > 0)
    await stop?.()
  })
})

describe('write', () => {
  test('a duplicate settles nothing', async () => {
    const { db, storage } = await open()
    await storage.write([appending(event('taken', { due: { inMs: 60_000 }, fingerprint: 'first' }))])
    await storage.write([appending(event('work'))])
    const [lease] = await storage.lease(1, 60_000)
    const { id = '', attempt = 0 } = lease ?? {}
    const settle = { kind: 'complete', id, attempt, keepMs: 0 } as const
    const again = { settle, ...appending(event('taken', { fingerprint: 'second' })) }
    expect(await storage.write([again])).toEqual([{ status: 'duplicate', fingerprint: 'first' }])
    expect(db.prepare('SELECT id, state FROM outbox_events ORDER BY id').all()).toEqual([
      { id: 'taken', state: 0 },
      { id: 'work', state: 1 },
    ])
    expect(await storage.write([{ settle, ...appending(event('next')) }])).toEqual([{ status: 'applied' }])
  })

  test('takes back a hundred events of 200 KB as they were, stored one by one in one transaction', async () => {
    const texts: string[] = []
    const { storage } = await open(file(), { verbose: (text) => texts.push(String(text).slice(0, 6)) })
    const body = JSON.stringify({ text: 'ä"\\\u0001😀'.repeat(15_000), lone: '\ud800' })
    texts.length = 0
    await storage.write(Array.from({ length: 100 }, (_, n) => appending(event(`event-${n}`, { body }))))
    expect(texts).toEqual(['BEGIN ', ...Array(100).fill('INSERT'), 'COMMIT'])
    const leased = await storage.lease(100, 60_000)
    expect(leased.map(({ id }) => id)).toEqual(Array.from({ length: 100 }, (_, n) => `event-${n}`))
    expect(leased.every((one) => one.body === body)).toBe(true)
  })
})

describe('lease', () => {
  /** An outbox that is overtaken by another process between looking for due events and leasing them. */
  async function overtaken() {
    const path = file()
    const db = connect(path)
    const prepare = db.prepare.bind(db)
    const others: (() => unknown)[] = []
    db.prepare = ((sql: string) => {
      const statement = prepare(sql)
      const all = statement.all.bind(statement)
      statement.all = (...parameters: unknown[]) => {
        const rows = all(...parameters)
        if (sql.startsWith('SELECT seq')) others.pop()?.()
        return rows
      }
      return statement
    }) as typeof db.prepare
    const outbox = outboxOn(db)
    await outbox.initialize()
    await outbox.storage.write([appending(event('old'))])
    return {
      storage: outbox.storage,
      elsewhere: connect(path),
      by: (other: () => unknown) => others.push(other),
    }
  }

  test('hands out what it has leased, even when another process reused the row meanwhile', async () => {
    const { storage, elsewhere, by } = await overtaken()
    by(() =>
      elsewhere.exec(`DELETE FROM outbox_events;
        INSERT INTO outbox_events (id, type, body, headers, created_at, visible_at) VALUES ('new', 't', '"new"', '{}', 1, 1)`),
    )
    expect(await storage.lease(10, 60_000)).toMatchObject([{ id: 'new', body: '"new"', attempt: 1 }])
  })

  test('does not take what another process has leased meanwhile', async () => {
    const { storage, elsewhere, by } = await overtaken()
    by(() =>
      elsewhere.exec('UPDATE outbox_events SET state = 1, attempt = 1, visible_at = visible_at + 60000'),
    )
    expect(await storage.lease(10, 60_000)).toEqual([])
    expect(elsewhere.prepare('SELECT attempt FROM outbox_events').pluck().get()).toBe(1)
  })
})

describe('listen', () => {
  test('goes on after the file was locked while it looked, and takes no part in a transaction', async () => {
    const { db, path, storage } = await open()
    const elsewhere = connect(path)
    let wakes = 0
    db.exec('BEGIN')
    const stop = await storage.listen?.(() => wakes++)
    elsewhere.exec('CREATE TABLE by_others (n INTEGER)')
    // The transaction has read nothing yet, so it sees what others have committed since it began.
    expect(db.prepare('SELECT count(*) FROM by_others').pluck().get()).toBe(0)
    db.exec('COMMIT')
    await sleep(30)
    elsewhere.exec('BEGIN EXCLUSIVE; INSERT INTO by_others VALUES (1)')
    await sleep(50)
    elsewhere.exec('COMMIT')
    await until(() => wakes > 0)
    await stop?.()
    const before = wakes
    elsewhere.exec('INSERT INTO by_others VALUES (2)')
    await sleep(30)
    expect(wakes).toBe(before)
  })

  test('is not woken by commits of its own connection', async () => {
    const { storage } = await open()
    let wakes = 0
    const stop = await storage.listen?.(() => wakes++)
    await storage.write([appending(event('mine'))])
    await sleep(50)
    expect(wakes).toBe(0)
    await stop?.()
  })
})

describe('a broken file', () => {
  test('that is no database, or is damaged, is an error that no retry helps', async () => {
    const path = file()
    writeFileSync(path, 'no database at all '.repeat(1_000))
    expect(() => outboxOn(connect(path))).not.toThrow()
    const failed = await outboxOn(connect(path))
      .initialize()
      .catch((thrown: unknown) => thrown)
    expect(failed).toBeInstanceOf(StorageError)
    expect(failed).toMatchObject({ transient: false, cause: { code: 'SQLITE_NOTADB' } })
    expect((failed as Error).message).toMatch(/restore the file from a backup/)

    const { db, path: damaged, storage } = await open()
    await storage.write(Array.from({ length: 500 }, (_, n) => appending(event(`event-${n}`))))
    db.close()
    const fd = openSync(damaged, 'r+')
    const { size } = statSync(damaged)
    writeSync(fd, Buffer.alloc(size - 4_096, 0xff), 0, size - 4_096, 4_096)
    closeSync(fd)
    const broken = await outboxOn(connect(damaged))
      .storage.lease(10, 1_000)
      .catch((thrown: unknown) => thrown)
    expect(broken).toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    expect((broken as Error).message).toMatch(/SQLITE_CORRUPT.*backup/)
  })

  test('that may not be written is an error that no retry helps', async () => {
    const { db, storage } = await open()
    db.pragma('query_only = 1')
    const failed = storage.write([appending(event('a'))])
    await expect(failed).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    await expect(failed).rejects.toThrow(/SQLITE_READONLY.*must be able to write/)
  })

  test('whose tables were dropped says what to call', async () => {
    const { db, storage, outbox } = await open()
    db.exec('DROP TABLE outbox_events; DROP TABLE saga_store')
    await expect(storage.lease(10, 1_000)).rejects.toThrow(NotInitializedError)
    await expect(outbox.transaction((tx) => storage.getPayload('claim', tx))).rejects.toThrow(
      NotInitializedError,
    )
  })
})

test('every statement goes by an index', async () => {
  const texts = new Set<string>()
  const { db, storage } = await open(':memory:', { verbose: (text) => texts.add(String(text)) })
  texts.clear()
  await storage.write([appending(event('a'), event('b'), event('c'), event('d'))])
  await storage.write([appending(event('e', { fingerprint: 'e' }))])
  await storage.write([appending(event('e', { fingerprint: 'e' }))])
  const [a, b, c] = await storage.lease(10, 60_000)
  const leases = [a, b, c].map((lease) => ({ id: lease?.id ?? '', attempt: 1 }))
  await storage.extend(leases, 60_000)
  const [first, second, third] = leases.map((lease) => lease)
  if (!first || !second || !third) throw new Error('three leases were expected')
  await storage.write([{ settle: { ...first, kind: 'complete', keepMs: 0 }, ...appending() }])
  await storage.write([{ settle: { ...second, kind: 'bury', error: 'x' }, ...appending() }])
  await storage.write([{ settle: { ...second, kind: 'discard' }, ...appending() }])
  await storage.write([{ ...appending(), put: [{ id: 'p', data: Uint8Array.of(1), expires: { inMs: 1 } }] }])
  await storage.write([{ ...appending(), remove: ['p', 'q'] }])
  await storage.getPayload('p')
  await storage.purge(10)
  await storage.listDead({ limit: 10 })
  await storage.listDead({ limit: 10, ids: ['a'] })
  await storage.stats()
  const seen = [...texts].filter((text) => /^(SELECT|INSERT|UPDATE|DELETE)/.test(text.trim()))
  // due, lease, extend, complete, discard, change, appendOne (2), appendMany, fingerprint, put, delete, get, purge (2),
  // dead (2), stats (3)
  expect(seen.length).toBeGreaterThanOrEqual(19)
  for (const text of seen) {
    const plan = db.prepare(`EXPLAIN QUERY PLAN ${text}`).all() as { detail: string }[]
    for (const { detail } of plan) {
      if (/outbox_events|saga_store/.test(detail)) {
        // A count of the dead reads their own partial index, and nothing but it.
        expect(detail, text).toMatch(/^SEARCH|USING COVERING INDEX outbox_events_dead/)
      }
      // What is named one by one is sorted afterwards; what is searched comes in the index's order.
      if (!text.includes('json_each')) expect(detail, text).not.toMatch(/TEMP B-TREE/)
    }
  }
})
