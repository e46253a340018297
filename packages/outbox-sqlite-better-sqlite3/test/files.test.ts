import { spawn } from 'node:child_process'
import { closeSync, openSync, statSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { NotInitializedError, StorageError } from 'outbox-core'
import { sleep, takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { appending, connect, event, newFile, open, outboxOn } from './opened.ts'

function notes(db: ReturnType<typeof connect>): unknown[] {
  return db.prepare('SELECT events, version FROM outbox_migrations ORDER BY rowid').raw().all()
}

const EVENTS_BEFORE = `CREATE TABLE outbox_events (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, body TEXT NOT NULL, headers TEXT NOT NULL,
  fingerprint TEXT, created_at INTEGER NOT NULL, visible_at INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0,
  uncounted INTEGER NOT NULL DEFAULT 0, state INTEGER NOT NULL DEFAULT 0, error TEXT, died_at INTEGER) STRICT;
  CREATE INDEX outbox_events_open ON outbox_events (visible_at, seq) WHERE state < 2`
const EMITTED_BEFORE = `INSERT INTO outbox_events (id, type, body, headers, fingerprint, state, attempt, created_at, visible_at)
  VALUES (?, 'a', '{}', '{}', NULL, 0, 0, 1, 1) ON CONFLICT (id) DO NOTHING`

describe('initialize', () => {
  test('creates the tables of every outbox in one database', async () => {
    const { db } = await open()
    const second = outboxOn(db, { tables: { events: 'second_events' } })
    await second.initialize()
    await second.initialize()
    expect(await second.stats()).toMatchObject({ due: 0 })
    expect(notes(db)).toEqual([
      ['outbox_events', 1],
      ['outbox_events', 2],
      ['saga_store', 1],
      ['second_events', 1],
      ['second_events', 2],
    ])
    // The other one's events, with payloads of its own.
    const third = outboxOn(db, { tables: { events: 'OUTBOX_events', payloads: 'third_payloads' } })
    await third.initialize()
    await third.sagaStore('1h').put('claim', Uint8Array.of(1))
    expect(notes(db).slice(5)).toEqual([['third_payloads', 1]])
  })

  test('refuses a table that a newer version has laid out, whichever it is, and changes nothing', async () => {
    for (const name of ['outbox_events', 'saga_store']) {
      const { db } = await open()
      db.prepare('INSERT INTO outbox_migrations VALUES (?, 7, 1)').run(name)
      const schema = () => db.prepare('SELECT sql FROM sqlite_schema').pluck().all()
      const before = schema()
      const newer = {
        code: 'OUTBOX_NEWER_SCHEMA',
        stored: 7,
        known: name === 'saga_store' ? 1 : 2,
        message: expect.stringContaining(name),
      }
      for (const more of [{}, { events: 'others' }].slice(0, name === 'outbox_events' ? 1 : 2)) {
        await expect(outboxOn(db, { tables: more }).initialize()).rejects.toMatchObject(newer)
      }
      expect(schema()).toEqual(before)
    }
  })

  // Word for word what the version before made, which noted tables of events only.
  test('takes over a file of the version before, which goes on beside', async () => {
    const { db } = await open()
    const made = db.prepare("SELECT sql FROM sqlite_schema WHERE name = 'outbox_migrations'").pluck().get()
    expect(String(made).replaceAll(/\s+/g, ' ')).toContain(
      '( events TEXT NOT NULL, version INTEGER NOT NULL, applied_at INTEGER NOT NULL, PRIMARY KEY (events, version) ) STRICT',
    )
    db.exec("DELETE FROM outbox_migrations WHERE events = 'saga_store'")
    db.exec(`DELETE FROM outbox_migrations WHERE version = 2; DROP TABLE outbox_events; ${EVENTS_BEFORE}`)
    const emitted = db.prepare(EMITTED_BEFORE)
    emitted.run('before')
    await outboxOn(db).sagaStore('1h').put('claim', Uint8Array.of(1))
    await outboxOn(db).initialize()
    expect(notes(db)).toEqual([
      ['outbox_events', 1],
      ['outbox_events', 2],
      ['saga_store', 1],
    ])
    expect(await outboxOn(db).sagaStore('1h').get('claim')).toEqual(Buffer.of(1))
    // A process of that version that has not been stopped yet.
    emitted.run('beside')
    const { storage } = outboxOn(db)
    expect(await storage.waiting()).toMatchObject([{ address: 'a' }])
    expect(await takeDue(storage, 10, 1_000)).toMatchObject([
      { id: 'before', type: 'a', address: 'a', key: null },
      { id: 'beside', type: 'a', address: 'a', key: null },
    ])
  })

  test('makes again what was dropped, a table or an index', async () => {
    const { db, outbox, storage } = await open()
    db.exec('DROP INDEX outbox_events_by_address; DROP TABLE saga_store')
    await expect(takeDue(storage, 1, 1_000)).rejects.toThrow(NotInitializedError)
    await outbox.initialize()
    expect(await takeDue(storage, 1, 1_000)).toEqual([])
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
  })

  test('refuses a table of events as one of payloads', async () => {
    const { db } = await open()
    const mixed = outboxOn(db, { tables: { events: 'others', payloads: 'outbox_events' } })
    await expect(mixed.initialize()).rejects.toMatchObject({ code: 'OUTBOX_NEWER_SCHEMA' })
    expect(notes(db)).toHaveLength(3)
  })

  test('leaves nothing behind when a migration fails halfway', async () => {
    const db = connect(newFile())
    db.exec('CREATE TABLE mine (n INTEGER); CREATE INDEX outbox_events_dead ON mine (n)')
    await expect(outboxOn(db).initialize()).rejects.toThrow(/outbox_events_dead already exists/)
    expect(db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").pluck().all()).toEqual(['mine'])
    db.exec('DROP INDEX outbox_events_dead')
    await outboxOn(db).initialize()
    expect(await outboxOn(db).stats()).toMatchObject({ due: 0 })
  })

  test('refuses an SQLite that is too old, and creates nothing', async () => {
    const db = connect(newFile())
    const prepare = db.prepare.bind(db)
    db.prepare = ((sql: string) => prepare(sql.replace('sqlite_version()', "'3.41.2'"))) as typeof db.prepare
    await expect(outboxOn(db).initialize()).rejects.toThrow(/SQLite is 3\.41\.2, 3\.42 or newer/)
    expect(db.prepare('SELECT name FROM sqlite_schema').all()).toEqual([])
  })

  test('runs each migration once when several processes start together', async () => {
    const path = newFile()
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
    expect(connect(path).prepare('SELECT count(*) FROM outbox_migrations').pluck().get()).toBe(3)
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
    expect(await locked(() => takeDue(storage, 10, 60_000))).toEqual([])
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

describe('a broken file', () => {
  test('that is no database, or is damaged, is an error that no retry helps', async () => {
    const path = newFile()
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
    const broken = await takeDue(outboxOn(connect(damaged)).storage, 10, 1_000).catch(
      (thrown: unknown) => thrown,
    )
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

  test('that was deleted while it was open is an error that says so', async () => {
    const { db, path, storage } = await open()
    db.pragma('journal_mode = DELETE')
    unlinkSync(path)
    const failed = storage.write([appending(event('a'))])
    await expect(failed).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    await expect(failed).rejects.toThrow(/DBMOVED.*open the database again/)
  })

  test('whose tables were dropped says what to call', async () => {
    const { db, storage, outbox } = await open()
    db.exec('DROP TABLE outbox_events; DROP TABLE saga_store')
    await expect(takeDue(storage, 10, 1_000)).rejects.toThrow(NotInitializedError)
    await expect(outbox.transaction((tx) => storage.getPayload('claim', tx))).rejects.toThrow(
      NotInitializedError,
    )
  })
})
