import type { When } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { storageError } from '../src/errors.ts'
import { appending, connect, event, open, stored } from './opened.ts'

const REFUSED = { code: 'OUTBOX_STORAGE', blame: 'event', transient: false }
const putting = (data: unknown, expires: When = { inMs: 60_000 }) => ({
  ...{ append: [], remove: [] },
  put: [{ id: 'payload', data: data as Uint8Array, expires }],
})

describe('what SQLite can’t hold', () => {
  test.each([Number.NaN, Number.NEGATIVE_INFINITY, 1e300, 2 ** 53])(
    '%s ms are refused before anything is written, and a transaction goes on',
    async (ms) => {
      const { db, outbox, storage } = await open()
      await storage.write([appending(event('leased'))])
      const [lease] = await takeDue(storage, 1, 60_000)
      const { id = '', attempt = 0 } = lease ?? {}
      const refused = [
        appending(event('a', { due: { at: ms } })),
        appending(event('a', { due: { inMs: ms } })),
        appending(event('first'), event('second', { due: { inMs: ms } })),
        { ...appending(event('a')), ...putting(Uint8Array.of(1), { at: ms }), append: [event('a')] },
        { settle: { kind: 'complete', id, attempt, keepMs: ms }, ...appending(event('a')) } as const,
        {
          settle: { kind: 'retry', id, attempt, delayMs: ms, error: 'x', counted: true },
          ...appending(),
        } as const,
      ]
      for (const outcome of refused) {
        await expect(storage.write([appending(event('b')), outcome])).rejects.toMatchObject(REFUSED)
      }
      await outbox.transaction(async (tx) => {
        await storage.write([appending(event('before'))], tx)
        for (const outcome of refused)
          await expect(storage.write([outcome], tx)).rejects.toMatchObject(REFUSED)
      })
      expect(stored(db)).toEqual(['leased', 'before'])
    },
  )

  test('a lease, a renewal and a longer stay of no length are refused, and change nothing', async () => {
    const { db, storage } = await open()
    await storage.write([appending(event('done'), event('leased'))])
    const [done, leased] = await takeDue(storage, 2, 60_000)
    if (!done || !leased) throw new Error('two leases were expected')
    await storage.write([{ settle: { kind: 'complete', ...done, keepMs: 60_000 }, ...appending() }])
    await storage.write([appending(event('due'))])
    const before = db.prepare('SELECT * FROM outbox_events').all()
    for (const ms of [Number.NaN, Number.POSITIVE_INFINITY, 1e300]) {
      await expect(takeDue(storage, 1, ms)).rejects.toMatchObject(REFUSED)
      await expect(storage.extend([leased], ms)).rejects.toMatchObject(REFUSED)
      await expect(storage.keep('done', ms)).rejects.toMatchObject(REFUSED)
    }
    expect(db.prepare('SELECT * FROM outbox_events').all()).toEqual(before)
  })

  test('parts of milliseconds are rounded up', async () => {
    const { db, storage } = await open()
    await storage.write([appending(event('a', { due: { at: 1.25 } }), event('b', { due: { at: 2.5 } }))])
    await storage.write([
      appending(event('c', { due: { inMs: 0.5 } })),
      putting(Uint8Array.of(1), { at: 7.5 }),
    ])
    const visible = db.prepare('SELECT visible_at FROM outbox_events ORDER BY seq LIMIT 2').pluck().all()
    expect([visible, db.prepare('SELECT expires_at FROM saga_store').pluck().get()]).toEqual([[2, 3], 8])
    const [lease] = await takeDue(storage, 1, 60_000)
    const { id = '', attempt = 0 } = lease ?? {}
    const retry = { kind: 'retry', id, attempt, delayMs: 1.5, error: null, counted: true } as const
    expect(await storage.write([{ settle: retry, ...appending() }])).toEqual([{ status: 'applied' }])
  })

  test('values that better-sqlite3 itself won’t bind concern only the outcome they are in', async () => {
    const { db, storage } = await open()
    for (const data of [true, undefined, [1, 2], { a: 1 }, Symbol('s'), 2n ** 64n]) {
      await expect(storage.write([putting(data)]), typeof data).rejects.toMatchObject(REFUSED)
    }
    expect(db.prepare('SELECT count(*) FROM saga_store').pluck().get()).toBe(0)
  })

  test('constraints, types and sizes of the table’s own', async () => {
    const { db, storage } = await open()
    db.exec("CREATE UNIQUE INDEX one_of_each ON outbox_events (type) WHERE type = 'only'")
    await storage.write([appending(event('1', { type: 'only' }))])
    await expect(storage.write([appending(event('2', { type: 'only' }))])).rejects.toMatchObject(REFUSED)
    await expect(storage.write([putting('text in a column of bytes')])).rejects.toMatchObject(REFUSED)
    await expect(storage.purge(Number.NaN)).rejects.toMatchObject(REFUSED)
    const tooLong = connect(':memory:')
    const thrown = ((): unknown => {
      try {
        return tooLong.prepare('SELECT zeroblob(?) || zeroblob(?)').get(999_999_999, 999_999_999)
      } catch (error) {
        return error
      }
    })()
    expect(thrown).toMatchObject({ code: 'SQLITE_TOOBIG' })
    expect(storageError(thrown)).toMatchObject(REFUSED)
  })

  test('the user’s own foreign key, broken at the commit, is not the event’s fault', async () => {
    const { db, outbox, bus } = await open()
    db.pragma('foreign_keys = ON')
    db.exec('CREATE TABLE parent (id INTEGER PRIMARY KEY)')
    db.exec('CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)')
    const failing = outbox.transaction(async (tx) => {
      tx.exec('INSERT INTO child VALUES (1)')
      await bus.emit('a', {})
    })
    await expect(failing).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', blame: 'environment' })
    expect(stored(db)).toEqual([])
  })

  test('text that a statement’s JSON could cut short is kept whole', async () => {
    const { storage } = await open()
    await storage.write([appending(event('a'))])
    const [lease] = await takeDue(storage, 1, 60_000)
    const { id = '', attempt = 0 } = lease ?? {}
    const error = 'before\0after'
    await storage.write([{ settle: { kind: 'bury', id, attempt, error }, ...appending() }])
    const { events } = await storage.listDead({ limit: 1 })
    expect(events).toMatchObject([{ error }])
  })
})
