import { mkdtempSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import type Database from 'better-sqlite3'
import { OutboxEventBus, UnsupportedBackendError } from 'outbox-core'
import { sleep, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { connect, newFile, open, outboxOn, stored } from './opened.ts'

/** Emits, handles, fails, buries, revives and stores payloads, all on one connection. */
async function works(db: Database.Database): Promise<void> {
  const outbox = outboxOn(db)
  await outbox.initialize()
  const bus = new OutboxEventBus(outbox, { poll: { min: '5ms', max: '20ms' } })
  const handled: unknown[] = []
  let failing = true
  bus.on('works', ({ payload }) => void handled.push(payload))
  const fail = () => {
    if (failing) throw new Error('no')
    handled.push('revived')
  }
  bus.on('fails', fail, { retry: { maxAttempts: 1 } })
  const store = outbox.sagaStore('1h')
  await outbox.transaction(async () => {
    await bus.emit('works', { LIKE: 'Straße' })
    await bus.emitMany([1, 2].map((n) => ({ type: 'works', payload: n })))
    await bus.emit('fails', {}, { id: 'one' })
    await store.put('claim', Uint8Array.of(7))
  })
  await bus.emit('fails', {}, { id: 'one' })
  expect([...((await store.get('claim')) ?? [])]).toEqual([7])
  await bus.start()
  await until(async () => (await outbox.stats()).dead === 1)
  const { letters } = await outbox.deadLetters.list()
  expect(letters).toMatchObject([{ id: 'one', attempts: 1, createdAt: expect.any(Date) }])
  failing = false
  expect(await outbox.deadLetters.retry('one')).toBe(1)
  await until(() => handled.includes('revived'))
  await bus.stop()
  expect(handled).toEqual(expect.arrayContaining([{ LIKE: 'Straße' }, 1, 2, 'revived']))
  expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0, oldestDueMs: null })
  await store.delete('claim')
  expect(await store.cleanup()).toBe(0)
}

describe('settings of the connection', () => {
  test.each([
    'full_column_names = 1',
    'short_column_names = 0',
    'case_sensitive_like = 1',
    'foreign_keys = 0',
    'recursive_triggers = 1',
    'reverse_unordered_selects = 1',
    'automatic_index = 0',
    'journal_mode = DELETE',
    'journal_mode = MEMORY',
    'locking_mode = EXCLUSIVE',
    "encoding = 'UTF-16'",
    'auto_vacuum = FULL',
    'trusted_schema = 0',
    'cell_size_check = 1',
    'secure_delete = 1',
  ])('works with PRAGMA %s', async (pragma) => {
    const db = connect(newFile())
    db.pragma(pragma)
    await works(db)
  })

  test('works with both settings of column names, integers as BigInt and unsafe mode', async () => {
    const db = connect(newFile())
    db.pragma('full_column_names = 1')
    db.pragma('short_column_names = 0')
    db.defaultSafeIntegers(true)
    db.unsafeMode(true)
    await works(db)
  })

  test('query_only and readonly are refused at the start, with what to do', async () => {
    const { db, path, outbox } = await open()
    db.pragma('query_only = 1')
    await expect(outbox.initialize()).rejects.toThrow(UnsupportedBackendError)
    await expect(outbox.initialize()).rejects.toThrow(/PRAGMA query_only = 0/)
    const reader = outboxOn(connect(path, { readonly: true }))
    await expect(reader.initialize()).rejects.toThrow(/open it without \{ readonly: true \}/)
  })
})

describe('other tables of the same names', () => {
  const NAMES = ['outbox_events', 'saga_store', 'outbox_migrations']

  test('temporary ones hide none of ours, whenever they come', async () => {
    for (const time of ['before', 'after']) {
      const db = connect(newFile())
      if (time === 'after') await outboxOn(db).initialize()
      for (const name of NAMES) db.exec(`CREATE TEMP TABLE ${name} (id TEXT)`)
      await works(db)
      for (const name of NAMES) expect(db.prepare(`SELECT count(*) FROM temp.${name}`).pluck().get()).toBe(0)
    }
  })

  test('those of an attached file are another outbox’s', async () => {
    const other = await open()
    await other.bus.emit('of.the.other', {})
    const db = connect(newFile())
    db.exec(`ATTACH '${other.path}' AS other`)
    await works(db)
    expect(stored(other.db)).toEqual(['of.the.other'])
  })
})

describe('triggers of the user’s own', () => {
  test('one that refuses an event is its failure, and one that swallows it is told of', async () => {
    const { db, bus, outbox } = await open()
    const before = (event: string, action: string): void => {
      db.exec(`CREATE TRIGGER mine BEFORE ${event} ON outbox_events WHEN NEW.type = 'a' BEGIN ${action}; END`)
    }
    before('INSERT', "SELECT RAISE(ABORT, 'not that one')")
    const refused = {
      code: 'OUTBOX_STORAGE',
      blame: 'event',
      message: expect.stringContaining('not that one'),
    }
    await expect(bus.emit('a', {})).rejects.toMatchObject(refused)
    db.exec('DROP TRIGGER mine')
    before('INSERT', 'SELECT RAISE(IGNORE)')
    const swallowed = {
      code: 'OUTBOX_STORAGE',
      transient: false,
      message: expect.stringContaining('RAISE(IGNORE)'),
    }
    for (const emit of [
      () => bus.emit('a', {}),
      () => bus.emit('a', {}, { id: 'mine' }),
      () => bus.emitMany([1, 2].map((payload) => ({ type: 'a', payload }))),
      () => bus.emitMany(['a', 'b'].map((type) => ({ type, payload: 1 }))),
      () => outbox.transaction(() => bus.emit('a', {})),
    ]) {
      await expect(emit()).rejects.toMatchObject(swallowed)
    }
    expect(stored(db)).toEqual([])
    await bus.emit('b', {})
    expect(stored(db)).toEqual(['b'])
  })

  test('ones that note what happens change nothing', async () => {
    const db = connect(newFile())
    await outboxOn(db).initialize()
    db.exec('CREATE TABLE log (what TEXT)')
    for (const event of ['INSERT', 'UPDATE', 'DELETE'])
      db.exec(`CREATE TRIGGER on_${event} AFTER ${event} ON outbox_events BEGIN
        INSERT INTO log VALUES ('${event}'), ('${event}'); END`)
    await works(db)
    expect(db.prepare('SELECT count(*) > 20 FROM log').pluck().get()).toBe(1)
  })
})

test('a file behind a link wakes its dispatchers', async () => {
  const { db, path } = await open()
  db.pragma('journal_mode = WAL')
  const elsewhere = mkdtempSync(newFile())
  symlinkSync(path, join(elsewhere, 'link.db'))
  const { storage } = outboxOn(connect(join(elsewhere, 'link.db')))
  let wakes = 0
  const stop = await storage.listen?.(() => wakes++)
  await sleep(50)
  db.exec('CREATE TABLE by_others (n INTEGER)')
  await until(() => wakes > 0)
  await stop?.()
})
