import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import {
  ConfigurationError,
  ForeignTransactionError,
  NotInitializedError,
  OutboxEventBus,
  StorageError,
  TransactionClosedError,
  TransactionMissingError,
  TransactionTimeoutError,
  UnsupportedBackendError,
} from 'outbox-core'
import { sleep, takeDue, until } from 'outbox-core/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { SqliteBetterSqlite3Outbox, type SqliteBetterSqlite3OutboxOptions } from '../src/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'outbox-sqlite-errors-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let files = 0
const file = (): string => join(folder, `${files++}.db`)

async function opened(path = ':memory:', options: SqliteBetterSqlite3OutboxOptions = {}) {
  const db = new Database(path, { timeout: 0 })
  const outbox = new SqliteBetterSqlite3Outbox(db, { logger: false, ...options })
  await outbox.initialize()
  return { db, outbox, bus: new OutboxEventBus(outbox) }
}

describe('bad input', () => {
  test('names that are none are refused before anything is asked', () => {
    const db = new Database(':memory:')
    for (const name of ['', 'a b', 'a"; DROP TABLE x; --', '1a', 'x'.repeat(49), 'é']) {
      expect(() => new SqliteBetterSqlite3Outbox(db, { tables: { events: name } })).toThrow(
        ConfigurationError,
      )
      expect(() => new SqliteBetterSqlite3Outbox(db, { tables: { payloads: name } })).toThrow(
        /tables.payloads/,
      )
    }
    expect(() => new SqliteBetterSqlite3Outbox(db, { lockTimeout: 0 })).toThrow(/lockTimeout/)
  })

  test('other names work', async () => {
    const tables = { events: 'my_events', payloads: 'my_payloads', migrations: 'my_migrations' }
    const { db, outbox, bus } = await opened(':memory:', { tables })
    await bus.emit('a', {})
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
    expect(db.prepare('SELECT count(*) AS n FROM my_events').get()).toEqual({ n: 1 })
    expect(db.prepare('SELECT count(*) AS n FROM my_payloads').get()).toEqual({ n: 1 })
  })

  test('missing tables say what to call', async () => {
    const outbox = new SqliteBetterSqlite3Outbox(new Database(':memory:'), { logger: false })
    const bus = new OutboxEventBus(outbox)
    await expect(bus.emit('a', {})).rejects.toThrow(NotInitializedError)
    await expect(bus.start()).rejects.toThrow(/outbox\.initialize\(\)/)
    await expect(outbox.transaction(() => bus.emit('a', {}))).rejects.toThrow(NotInitializedError)
  })

  test('a read-only connection is refused at start', async () => {
    const path = file()
    new Database(path).close()
    const outbox = new SqliteBetterSqlite3Outbox(new Database(path, { readonly: true }), { logger: false })
    await expect(outbox.initialize()).rejects.toThrow(UnsupportedBackendError)
  })

  test('a closed connection is a typed error that no retry helps', async () => {
    const { db, outbox, bus } = await opened()
    db.close()
    await expect(bus.emit('a', {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    await expect(outbox.transaction(async () => {})).rejects.toThrow(StorageError)
  })

  test('a connection that is closed inside a transaction leaves nothing behind, and is named', async () => {
    const path = file()
    const { db, outbox, bus } = await opened(path)
    const closing = outbox.transaction(async () => {
      await bus.emit('a', {})
      db.close()
    })
    await expect(closing).rejects.toThrow(/not open.*keep the connection open until bus\.stop/)
    expect(await (await opened(path)).outbox.stats()).toMatchObject({ due: 0 })
  })

  test('a full database is a passing error, and nothing is half written', async () => {
    const { db, outbox, bus } = await opened(file())
    const { page_count } = db.prepare('PRAGMA page_count').get() as { page_count: number }
    db.pragma(`max_page_count = ${page_count}`)
    const store = outbox.sagaStore('1h', { compression: 'none' })
    const writing = outbox.transaction(async () => {
      await bus.emit('a', {})
      await store.put('claim', new Uint8Array(100_000))
    })
    await expect(writing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    db.pragma('max_page_count = 1000000')
    expect(await outbox.stats()).toMatchObject({ due: 0 })
    await bus.emit('a', {})
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })
})

describe('transactions', () => {
  test('200 of them, interleaved on one connection, keep their rows apart', async () => {
    const { db, outbox, bus } = await opened()
    db.exec('CREATE TABLE rows (n INTEGER)')
    const done = await Promise.allSettled(
      Array.from({ length: 200 }, (_, n) =>
        outbox.transaction(async (tx) => {
          tx.prepare('INSERT INTO rows VALUES (?)').run(n)
          await sleep(n % 5 === 0 ? 1 : 0)
          await bus.emit('row', { n })
          await Promise.resolve()
          if (n % 3 === 0) throw new Error('rollback')
        }),
      ),
    )
    const kept = done.flatMap(({ status }, n) => (status === 'fulfilled' ? [n] : []))
    expect(kept).toEqual(Array.from({ length: 200 }, (_, n) => n).filter((n) => n % 3 !== 0))
    const rows = db.prepare('SELECT n FROM rows ORDER BY n').all() as { n: number }[]
    const events = db.prepare("SELECT body ->> 'n' AS n FROM outbox_events ORDER BY 1").all() as {
      n: number
    }[]
    expect(rows.map(({ n }) => n)).toEqual(kept)
    expect(events.map(({ n }) => n)).toEqual(kept)
  })

  test('waiting in vain names who holds the connection', async () => {
    const { outbox } = await opened(':memory:', { lockTimeout: 50 })
    let release = (): void => {}
    const held = outbox.transaction(() => new Promise<void>((resolve) => (release = resolve)))
    await sleep(5)
    const waiting = outbox.transaction(async () => {})
    await expect(waiting).rejects.toThrow(TransactionTimeoutError)
    await expect(takeDue(outbox.storage, 1, 1_000)).rejects.toThrow(
      /outbox\.transaction, open on this connection since/,
    )
    release()
    await held
    await outbox.transaction(async () => {})
  })

  test('a handle that has ended refuses to be used', async () => {
    const { db, outbox } = await opened()
    let late: typeof db | undefined
    await outbox.transaction((tx) => {
      late = tx
    })
    expect(() => late?.prepare('SELECT 1')).toThrow(TransactionClosedError)
    expect(() => late?.exec('SELECT 1')).toThrow(TransactionClosedError)
    expect(db.prepare('SELECT 1 AS one').get()).toEqual({ one: 1 })
  })

  test('only a transaction of this very connection can be enlisted', async () => {
    const { db, outbox } = await opened()
    await expect(outbox.enlist(db, async () => {})).rejects.toThrow(TransactionMissingError)
    await expect(outbox.enlist(new Database(':memory:'), async () => {})).rejects.toThrow(
      ForeignTransactionError,
    )
  })

  test('a transaction begun by hand is not joined by accident', async () => {
    const { db, outbox, bus } = await opened(':memory:', { lockTimeout: '5s' })
    db.exec('BEGIN')
    const emitting = bus.emit('a', {})
    await sleep(20)
    db.exec('ROLLBACK')
    await emitting
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('says so when SQLite has rolled back by itself', async () => {
    const { outbox, bus } = await opened()
    const broken = outbox.transaction(async (tx) => {
      await bus.emit('a', {})
      tx.exec('ROLLBACK')
    })
    await expect(broken).rejects.toThrow(/rolled the transaction back/)
    expect(await outbox.stats()).toMatchObject({ due: 0 })
  })
})

describe('other connections on the file', () => {
  test('a lock held elsewhere is waited for without blocking the event loop', async () => {
    const path = file()
    const { outbox, bus } = await opened(path)
    const other = new Database(path)
    other.exec('BEGIN IMMEDIATE')
    let turns = 0
    const ticking = setInterval(() => turns++, 1)
    setTimeout(() => other.exec('COMMIT'), 60)
    await bus.emit('a', {})
    await outbox.transaction(() => bus.emit('b', {}))
    clearInterval(ticking)
    expect(turns).toBeGreaterThan(5)
    expect(await outbox.stats()).toMatchObject({ due: 2 })
  })

  test('a lock that is never released is a passing error', async () => {
    const path = file()
    const { bus } = await opened(path, { lockTimeout: 50 })
    const other = new Database(path)
    other.exec('BEGIN IMMEDIATE')
    await expect(bus.emit('a', {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    other.close()
  })

  test('their commits wake this dispatcher long before it would poll', async () => {
    const path = file()
    const { db, bus } = await opened(path)
    db.pragma('journal_mode = WAL')
    let handled = 0
    bus.on('a', () => {
      handled++
    })
    const sleepy = new OutboxEventBus(new SqliteBetterSqlite3Outbox(db, { logger: false }), {
      poll: { min: '1h', max: '1h' },
    })
    sleepy.on('a', () => {
      handled++
    })
    await sleepy.start()
    const elsewhere = await opened(path)
    await elsewhere.bus.emit('a', {})
    await until(() => handled === 1)
    await sleepy.stop()
  })

  test('the dispatcher goes on by itself after the database was locked', async () => {
    const path = file()
    const { db, bus } = await opened(path, { lockTimeout: 20 })
    db.pragma('journal_mode = WAL')
    let handled = 0
    bus.on('a', () => {
      handled++
    })
    await bus.start()
    const other = new Database(path)
    await bus.emit('a', {})
    await until(() => handled === 1)
    other.exec('BEGIN IMMEDIATE')
    other
      .prepare(
        "INSERT INTO outbox_events (id, type, body, headers, created_at, visible_at) VALUES ('x', 'a', '{}', '{}', 1, 1)",
      )
      .run()
    await sleep(100)
    other.exec('COMMIT')
    await until(() => handled === 2)
    await bus.stop()
  })
})
