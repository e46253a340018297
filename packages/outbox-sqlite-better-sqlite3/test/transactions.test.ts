import type Database from 'better-sqlite3'
import {
  ForeignTransactionError,
  OutboxEventBus,
  TransactionClosedError,
  TransactionMissingError,
  TransactionTimeoutError,
} from 'outbox-core'
import { sleep, takeDue, until } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { connect, open, outboxOn, stored } from './opened.ts'

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
      takeDue(outbox.storage, 10, 1_000),
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
      takeDue(outbox.storage, 10, 60_000),
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
    const second = outboxOn(db, { tables: { events: 'second_events' }, lockTimeout: 100 })
    await second.initialize()
    const secondBus = new OutboxEventBus(second)
    const both = (fail: boolean) =>
      outbox.transaction(async (tx) => {
        await bus.emit('first', {})
        await second.enlist(tx, () => secondBus.emit('second', {}))
        if (fail) throw new Error('no')
      })
    await expect(both(true)).rejects.toThrow('no')
    expect([stored(db), stored(db, 'second_events')]).toEqual([[], []])
    await both(false)
    expect([stored(db), stored(db, 'second_events')]).toEqual([['first'], ['second']])
    db.exec('BEGIN')
    await outbox.enlist(db, async () => {
      await second.enlist(db, () => secondBus.emit('nested', {}))
      await bus.emit('around', {})
    })
    await Promise.all([
      outbox.enlist(db, () => bus.emit('short', {})),
      second.enlist(db, async () => {
        await sleep(10)
        await secondBus.emit('long', {})
      }),
    ])
    db.exec('COMMIT')
    expect([stored(db), stored(db, 'second_events')]).toEqual([
      ['first', 'around', 'short'],
      ['second', 'nested', 'long'],
    ])
  })

  test('ends with its callback, while the transaction goes on', async () => {
    const { db, outbox, bus } = await open()
    let late: Database.Database | undefined
    db.exec('BEGIN')
    await outbox.enlist(db, (tx) => {
      late = tx
    })
    expect(() => late?.prepare('SELECT 1')).toThrow(TransactionClosedError)
    await expect(bus.emit('a', {}, { transaction: late as typeof db })).rejects.toThrow(
      TransactionClosedError,
    )
    await outbox.enlist(db, () => bus.emit('again', {}))
    db.exec('COMMIT')
    expect(stored(db)).toEqual(['again'])
  })

  test('wakes the dispatcher, which waits for the commit', async () => {
    const { db, outbox, storage } = await open()
    const { lease } = storage
    let polls = 0
    storage.lease = (request) => {
      polls++
      return lease.call(storage, request)
    }
    const bus = new OutboxEventBus(outbox, { poll: { min: '1h', max: '1h' } })
    bus.on('enlisted', () => {})
    await bus.start()
    // Once when it starts, once more, then it sleeps.
    await until(() => polls === 2)
    await sleep(10)
    db.exec('BEGIN')
    await outbox.enlist(db, () => bus.emit('enlisted', {}))
    await sleep(10)
    db.exec('COMMIT')
    await until(() => stored(db).length === 0)
    await bus.stop()
  })

  test('in a synchronous transaction of better-sqlite3 comes too late, and says so', async () => {
    const { db, outbox, bus } = await open()
    const insert = db.prepare("INSERT INTO business VALUES ('a')")
    const returned = db.transaction(() => {
      insert.run()
      return outbox.enlist(db, () => bus.emit('a', {})).catch(() => {})
    })
    expect(returned).toThrow(/cannot return a promise/)
    let emitting: Promise<unknown> = Promise.resolve()
    db.transaction(() => {
      emitting = outbox.enlist(db, () => bus.emit('a', {}))
    })()
    await expect(emitting).rejects.toThrow(TransactionClosedError)
    expect([stored(db), db.prepare('SELECT * FROM business').all()]).toEqual([[], []])
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

test('savepoints inside a transaction take events with them', async () => {
  const { db, outbox, bus } = await open()
  await outbox.transaction(async (tx) => {
    await bus.emit('before', {})
    tx.exec('SAVEPOINT inner')
    tx.exec("INSERT INTO business VALUES ('a')")
    await bus.emit('undone', {})
    tx.exec('ROLLBACK TO inner')
    tx.exec('RELEASE inner')
    const nested = tx.transaction(() => tx.exec("INSERT INTO business VALUES ('b')"))
    nested()
    await bus.emit('after', {})
  })
  expect(stored(db)).toEqual(['before', 'after'])
  expect(db.prepare('SELECT key FROM business').pluck().all()).toEqual(['b'])
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
  { timeout: 300_000 },
  async (seed) => {
    const random = seeded(seed)
    // On a busy disk the last of 200 waits long for its turn.
    const { db, outbox, bus } = await open({ lockTimeout: '5m' })
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
