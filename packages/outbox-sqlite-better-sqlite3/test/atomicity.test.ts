import type Database from 'better-sqlite3'
import { StorageError, TransactionClosedError } from 'outbox-core'
import { sleep, takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { event, open, stored } from './opened.ts'

const refusePayloads = (db: Database.Database): unknown =>
  db.exec("CREATE TRIGGER refuse BEFORE INSERT ON saga_store BEGIN SELECT raise(ABORT, 'refused'); END")

/** One write of an event and a payload. */
const eventWithPayload = {
  append: [event('one'), event('two')],
  put: [{ id: 'claim', data: Uint8Array.of(1), expires: { inMs: 60_000 } }],
  remove: [],
}

describe('half a write is never committed', () => {
  test('in a transaction whose callback catches the error', async () => {
    const { db, outbox, bus } = await open()
    refusePayloads(db)
    const writing = outbox.transaction(async (tx) => {
      await bus.emit('before', {})
      await expect(outbox.storage.write([eventWithPayload], tx)).rejects.toThrow(/refused/)
      await expect(outbox.storage.write([eventWithPayload], tx)).rejects.toThrow(TransactionClosedError)
    })
    const error = await writing.catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(StorageError)
    expect((error as Error).message).toMatch(/rolled the transaction back/)
    expect((error as { cause: Error }).cause.message).toMatch(/refused/)
    expect(stored(db)).toEqual([])
  })

  test('in a transaction that the user commits', async () => {
    const { db, outbox } = await open()
    refusePayloads(db)
    db.exec("BEGIN; INSERT INTO business VALUES ('a')")
    const enlisted = outbox.enlist(db, (tx) => outbox.storage.write([eventWithPayload], tx))
    await expect(enlisted).rejects.toThrow(/refused/)
    expect(() => db.exec('COMMIT')).toThrow(/no transaction is active/)
    expect([stored(db), db.prepare('SELECT * FROM business').all()]).toEqual([[], []])
  })

  test('outside any transaction', async () => {
    const { db, outbox } = await open()
    refusePayloads(db)
    await expect(outbox.storage.write([eventWithPayload])).rejects.toThrow(/refused/)
    expect([stored(db), db.inTransaction]).toEqual([[], false])
  })

  test('nor by going on without a transaction after SQLite has rolled back', async () => {
    const { db, outbox, bus } = await open()
    const going = outbox.transaction(async (tx) => {
      db.exec('ROLLBACK')
      expect(() => tx.prepare("INSERT INTO business VALUES ('a')")).toThrow(TransactionClosedError)
      await expect(bus.emit('a', {})).rejects.toThrow(TransactionClosedError)
    })
    await expect(going).rejects.toThrow(/rolled the transaction back/)
    expect([stored(db), db.prepare('SELECT * FROM business').all()]).toEqual([[], []])
  })
})

describe('the user’s own use of the connection', () => {
  test('an open iterator is waited for, and named inside a transaction', async () => {
    const { db, outbox, bus } = await open()
    db.exec("INSERT INTO business VALUES ('a'), ('b')")
    let emitting: Promise<unknown> = Promise.resolve()
    for (const _ of db.prepare('SELECT * FROM business').iterate()) {
      emitting = bus.emit('while-iterating', {})
      await sleep(10)
    }
    await emitting
    expect(stored(db)).toEqual(['while-iterating', 'while-iterating'])
    const inside = outbox.transaction(async (tx) => {
      for (const _ of tx.prepare('SELECT * FROM business').iterate()) {
        const error = await bus.emit('a', {}).catch((thrown: unknown) => thrown)
        expect(error).toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
        expect((error as Error).message).toMatch(/finish the iterate\(\)/)
        const several = outbox.storage.write([eventWithPayload], tx)
        await expect(several).rejects.toThrow(/finish the iterate\(\)/)
      }
      await bus.emit('afterwards', {})
    })
    await inside
    expect(stored(db).slice(2)).toEqual(['afterwards'])
  })

  test('bigint as the connection’s default changes nothing', async () => {
    const { db, outbox, bus } = await open()
    const store = outbox.sagaStore('1h')
    db.defaultSafeIntegers(true)
    await outbox.initialize()
    await bus.emit('a', {})
    await store.put('0198c0de-0000-7000-8000-000000000000', Uint8Array.of(1))
    expect(await outbox.stats()).toMatchObject({ due: 1, leased: 0, dead: 0 })
    const [lease] = await takeDue(outbox.storage, 10, 60_000)
    expect(lease).toMatchObject({ type: 'a', attempt: 1, uncounted: 0, createdAt: expect.any(Number) })
    expect(await outbox.storage.purge(10)).toEqual({ events: 0, payloads: 0 })
  })
})
