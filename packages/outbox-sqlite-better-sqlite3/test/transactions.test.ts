import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import {
  ForeignTransactionError,
  OutboxEventBus,
  StorageError,
  TransactionClosedError,
  TransactionMissingError,
  TransactionTimeoutError,
} from 'outbox-core'
import { sleep } from 'outbox-core/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { SqliteBetterSqlite3Outbox, type SqliteBetterSqlite3OutboxOptions } from '../src/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'outbox-sqlite-transactions-'))
const opened: Database.Database[] = []
afterAll(() => {
  for (const db of opened) db.close()
  rmSync(folder, { recursive: true, force: true })
})

let files = 0

function connect(path: string): Database.Database {
  const db = new Database(path, { timeout: 0 })
  opened.push(db)
  return db
}

async function outboxOn(db: Database.Database, options: SqliteBetterSqlite3OutboxOptions = {}) {
  const outbox = new SqliteBetterSqlite3Outbox(db, { logger: false, lockTimeout: '10s', ...options })
  await outbox.initialize()
  return { db, outbox, bus: new OutboxEventBus(outbox), store: outbox.sagaStore('1h') }
}

async function open(options?: SqliteBetterSqlite3OutboxOptions) {
  const path = join(folder, `${files++}.db`)
  const db = connect(path)
  db.exec('CREATE TABLE business (key TEXT)')
  return { path, ...(await outboxOn(db, options)) }
}

/** Types of all stored events, which the tests use as names. */
function stored(db: Database.Database, table = 'outbox_events'): unknown[] {
  return db.prepare(`SELECT type FROM ${table} ORDER BY seq`).pluck().all()
}

const refusePayloads = (db: Database.Database): unknown =>
  db.exec("CREATE TRIGGER refuse BEFORE INSERT ON saga_store BEGIN SELECT raise(ABORT, 'refused'); END")

/** One write of an event and a payload. */
const eventWithPayload = {
  append: [
    { id: 'one', type: 'half', body: '{}', headers: {}, due: { inMs: 0 }, fingerprint: null },
    { id: 'two', type: 'half', body: '{}', headers: {}, due: { inMs: 0 }, fingerprint: null },
  ],
  put: [{ id: 'claim', data: Uint8Array.of(1), expires: { inMs: 60_000 } }],
  remove: [],
}

describe('a transaction of someone else', () => {
  test('is not joined by a write that had to wait for another process', async () => {
    const { db, path, outbox, bus } = await open()
    const elsewhere = connect(path)
    elsewhere.exec('BEGIN IMMEDIATE')
    const emitting = bus.emit('waited', {})
    elsewhere.exec('COMMIT')
    const failing = outbox.transaction(async () => {
      await bus.emit('rolled-back', {})
      await sleep(30)
      throw new Error('no')
    })
    await expect(failing).rejects.toThrow('no')
    await emitting
    expect(stored(db)).toEqual(['waited'])
  })

  test('is waited for when it was begun by hand', async () => {
    const { db, outbox, bus } = await open()
    db.exec('BEGIN')
    const waiting = [
      bus.emit('alone', {}),
      outbox.transaction(() => bus.emit('in-a-transaction', {})),
      outbox.storage.lease(10, 1_000),
    ]
    await sleep(20)
    db.exec('ROLLBACK')
    await Promise.all(waiting)
    expect(stored(db).sort()).toEqual(['alone', 'in-a-transaction'])
  })

  test('begun by hand and never ended is named', async () => {
    const { db, outbox, bus } = await open({ lockTimeout: 30 })
    db.exec('BEGIN')
    await expect(bus.emit('a', {})).rejects.toThrow(/begun by hand.*outbox\.enlist/)
    await expect(outbox.transaction(async () => {})).rejects.toThrow(TransactionTimeoutError)
    db.exec('ROLLBACK')
    expect(stored(db)).toEqual([])
  })

  test('is named when code reaches the outbox from another async context inside it', async () => {
    const { db, outbox, bus } = await open({ lockTimeout: 30 })
    const queue: (() => Promise<unknown>)[] = []
    const arrived = Promise.withResolvers<void>()
    // A worker that was started before the transaction, and so has no part in its context.
    const worker = (async () => {
      await arrived.promise
      return queue[0]?.()
    })()
    await outbox.transaction(async () => {
      queue.push(() => bus.emit('outside', {}))
      arrived.resolve()
      await expect(worker).rejects.toThrow(/waited 30 ms for outbox\.transaction, open on this connection/)
      await bus.emit('inside', {})
    })
    expect(stored(db)).toEqual(['inside'])
  })
})

describe('enlist', () => {
  test('goes on while others wait for the very transaction', async () => {
    const { db, outbox, bus } = await open()
    db.exec('BEGIN')
    const others = [
      outbox.storage.lease(10, 60_000),
      bus.emit('after', {}),
      outbox.transaction(() => bus.emit('after', {})),
    ]
    await sleep(1)
    await outbox.enlist(db, () => bus.emit('enlisted', {}))
    await bus.emit('explicit', {}, { transaction: db })
    db.exec('COMMIT')
    await Promise.all(others)
    expect(stored(db)).toEqual(['enlisted', 'explicit', 'after', 'after'])
  })

  test('joins what another outbox on the same connection has open', async () => {
    const { db, outbox, bus } = await open({ lockTimeout: 100 })
    const second = await outboxOn(db, { tables: { events: 'second_events' }, lockTimeout: 100 })
    const both = (fail: boolean) =>
      outbox.transaction(async (tx) => {
        await bus.emit('first', {})
        await second.outbox.enlist(tx, () => second.bus.emit('second', {}))
        if (fail) throw new Error('no')
      })
    await expect(both(true)).rejects.toThrow('no')
    expect([stored(db), stored(db, 'second_events')]).toEqual([[], []])
    await both(false)
    expect([stored(db), stored(db, 'second_events')]).toEqual([['first'], ['second']])
    db.exec('BEGIN')
    await outbox.enlist(db, async () => {
      await second.outbox.enlist(db, () => second.bus.emit('nested', {}))
      await bus.emit('around', {})
    })
    await Promise.all([
      outbox.enlist(db, () => bus.emit('short', {})),
      second.outbox.enlist(db, async () => {
        await sleep(10)
        await second.bus.emit('long', {})
      }),
    ])
    db.exec('COMMIT')
    expect([stored(db), stored(db, 'second_events')]).toEqual([
      ['first', 'around', 'short'],
      ['second', 'nested', 'long'],
    ])
  })

  test('that outlives its transaction does not end up in the next one', async () => {
    const { db, outbox, bus } = await open()
    db.exec('BEGIN')
    const late = outbox.enlist(db, async () => {
      await sleep(20)
      await bus.emit('late', {})
    })
    db.exec('COMMIT')
    const next = outbox.transaction(async () => {
      await sleep(60)
      await bus.emit('next', {})
    })
    await expect(late).rejects.toThrow(TransactionClosedError)
    await next
    expect(stored(db)).toEqual(['next'])
  })

  test('refuses the connection while its transaction is the outbox’s own', async () => {
    const { db, outbox, bus } = await open()
    const elsewhere = await open()
    await outbox.transaction(async (tx) => {
      const outside = outbox.detached(() => outbox.enlist(db, async () => {}))
      await expect(outside).rejects.toThrow(TransactionMissingError)
      await expect(elsewhere.outbox.enlist(tx, async () => {})).rejects.toThrow(ForeignTransactionError)
      await expect(elsewhere.bus.emit('a', {}, { transaction: tx })).rejects.toThrow(ForeignTransactionError)
      await expect(outbox.detached(() => bus.emit('a', {}, { transaction: db }))).rejects.toThrow(
        TransactionMissingError,
      )
    })
    expect([stored(db), stored(elsewhere.db)]).toEqual([[], []])
  })
})

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
    const { db, outbox, bus, store } = await open()
    db.defaultSafeIntegers(true)
    await outbox.initialize()
    await bus.emit('a', {})
    await store.put('0198c0de-0000-7000-8000-000000000000', Uint8Array.of(1))
    expect(await outbox.stats()).toMatchObject({ due: 1, leased: 0, dead: 0 })
    const [lease] = await outbox.storage.lease(10, 60_000)
    expect(lease).toMatchObject({ type: 'a', attempt: 1, uncounted: 0, createdAt: expect.any(Number) })
    expect(await outbox.storage.purge(10)).toEqual({ events: 0, payloads: 0 })
  })
})

/** Numbers from a seed, so that a failure can be repeated. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state / 2_147_483_648
  }
}

test.each([1, 2, 3, 4, 5])(
  'seed %i: 200 writers of every kind on one connection mix nothing, lose nothing',
  async (seed) => {
    const random = seeded(seed)
    const { db, outbox, bus } = await open()
    const pauses = async (): Promise<void> => {
      for (let left = Math.floor(random() * 4); left > 0; left--) await (random() < 0.3 ? sleep(1) : null)
    }
    const both = async (tx: Database.Database, key: string): Promise<void> => {
      await pauses()
      tx.prepare('INSERT INTO business VALUES (?)').run(key)
      await pauses()
      await bus.emit(key, {})
      await pauses()
      if (random() < 0.4) throw new Error('roll back')
    }
    const byHand = async (key: string): Promise<void> => {
      while (db.inTransaction) await sleep(1)
      db.exec('BEGIN')
      try {
        await outbox.enlist(db, (tx) => both(tx, key))
        db.exec('COMMIT')
      } finally {
        if (db.inTransaction) db.exec('ROLLBACK')
      }
    }
    const alone: string[] = []
    const done = await Promise.allSettled(
      Array.from({ length: 200 }, async (_, n) => {
        const kind = random()
        const key = `writer-${n}`
        await pauses()
        if (kind < 0.6) await outbox.transaction((tx) => both(tx, key))
        else if (kind < 0.8) await byHand(key)
        else {
          alone.push(key)
          await bus.emit(key, {})
        }
        return key
      }),
    )
    const kept = done.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    for (const result of done) {
      if (result.status === 'rejected') expect((result.reason as Error).message).toBe('roll back')
    }
    const rows = db.prepare('SELECT key FROM business').pluck().all()
    expect(stored(db).sort()).toEqual(kept.sort())
    expect(rows.sort()).toEqual(kept.filter((key) => !alone.includes(key)))
  },
)
