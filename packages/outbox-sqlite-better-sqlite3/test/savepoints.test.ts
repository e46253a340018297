import type Database from 'better-sqlite3'
import { StorageError, TransactionClosedError } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { appending, event, type Opened, open, outboxOn, stored } from './opened.ts'

const business = (db: Database.Database): unknown[] =>
  db.prepare('SELECT key FROM business ORDER BY key').pluck().all()

/** A part of a transaction that writes a row and an event, and fails when told so. */
async function part({ storage }: Opened, tx: Database.Database, name: string, error?: Error): Promise<void> {
  await storage.nested?.(tx, async () => {
    tx.prepare('INSERT INTO business VALUES (?)').run(name)
    await storage.write([appending(event(name))], tx)
    if (error) throw error
  })
}

const undone = new Error('undone')
const undo = (_?: unknown): never => {
  throw undone
}

describe('a part of a transaction', () => {
  test('of a transaction begun by hand is taken back alone, whichever outbox on it began the part', async () => {
    const place = await open()
    const { db, outbox } = place
    const second = outboxOn(db)
    db.exec('BEGIN')
    await outbox.enlist(db, async (tx) => {
      await part(place, tx, 'before')
      await second.storage.nested?.(tx, async () => {
        await expect(part(place, tx, 'failing', undone)).rejects.toBe(undone)
        await part(place, tx, 'kept')
      })
    })
    db.exec('COMMIT')
    expect([stored(db), business(db)]).toEqual([
      ['before', 'kept'],
      ['before', 'kept'],
    ])
  })

  test('beside savepoints of the user’s own takes back no more than itself', async () => {
    const place = await open()
    await place.outbox.transaction(async (tx) => {
      tx.exec('SAVEPOINT outbox_1')
      await part(place, tx, 'before')
      const failing = place.storage.nested?.(tx, async () => {
        tx.transaction(() => tx.exec("INSERT INTO business VALUES ('inside')"))()
        tx.exec('SAVEPOINT mine')
        throw undone
      })
      await expect(failing).rejects.toBe(undone)
      tx.exec('RELEASE outbox_1')
    })
    expect([stored(place.db), business(place.db)]).toEqual([['before'], ['before']])
  })

  test('that two outboxes cut across each other leaves nothing to commit', async () => {
    const place = await open()
    const { db, outbox } = place
    const second = outboxOn(db)
    const overlapping = Promise.withResolvers<void>()
    const whole = outbox.transaction(async (tx) => {
      const failing = place.storage.nested?.(tx, async () => {
        await place.storage.write([appending(event('failing'))], tx)
        await overlapping.promise
        throw undone
      })
      const cut = second.storage.nested?.(tx, async () => {
        await place.storage.write([appending(event('cut'))], tx)
        overlapping.resolve()
        await failing?.catch(() => {})
      })
      await expect(failing).rejects.toBe(undone)
      await expect(cut).rejects.toThrow(StorageError)
    })
    await expect(whole).rejects.toThrow(/no such savepoint/)
    expect(stored(db)).toEqual([])
  })

  test('throws what failed in it even when the whole was rolled back by it', async () => {
    const { db, outbox, storage } = await open()
    const whole = outbox.transaction(async (tx) => {
      const failing = storage.nested?.(tx, async () => {
        db.exec('ROLLBACK')
        throw undone
      })
      await expect(failing).rejects.toBe(undone)
    })
    await expect(whole).rejects.toThrow(/rolled the transaction back/)
    const going = outbox.transaction(async (tx) => {
      const part = storage.nested?.(tx, async () => void db.exec('ROLLBACK'))
      await expect(part).rejects.toThrow(TransactionClosedError)
    })
    await expect(going).rejects.toThrow(/rolled the transaction back/)
    expect(db.inTransaction).toBe(false)
  })

  test('waits for an open iterator before it is taken back', async () => {
    const place = await open()
    place.db.exec("INSERT INTO business VALUES ('a'), ('b')")
    await place.outbox.transaction(async (tx) => {
      const reading: { rows?: IterableIterator<unknown> } = {}
      const failing = place.storage.nested?.(tx, async () => {
        await place.storage.write([appending(event('inside'))], tx)
        reading.rows = tx.prepare('SELECT * FROM business').iterate()
        reading.rows.next()
        throw undone
      })
      setTimeout(() => reading.rows?.return?.(), 20)
      await expect(failing).rejects.toBe(undone)
    })
    expect(stored(place.db)).toEqual([])
  })

  test('that can’t be taken back or kept leaves nothing to commit', async () => {
    const { db, outbox, storage } = await open({ lockTimeout: 20 })
    for (const failing of [true, false]) {
      db.exec("INSERT INTO business VALUES ('a'), ('b')")
      const whole = outbox.transaction(async (tx) => {
        let rows: IterableIterator<unknown> | undefined
        const part = storage.nested?.(tx, async () => {
          await storage.write([appending(event('inside'))], tx)
          rows = tx.prepare('SELECT * FROM business').iterate()
          rows.next()
          if (failing) throw undone
        })
        await expect(part).rejects.toThrow(/finish the iterate\(\)/)
        rows?.return?.()
      })
      await expect(whole).rejects.toThrow(StorageError)
      expect([stored(db), db.inTransaction]).toEqual([[], false])
    }
  })
})

describe('a mark', () => {
  test.each([
    ['tx.transaction', (_, tx, fn) => tx.transaction(fn)()],
    ['db.transaction', ({ db }, _, fn) => db.transaction(fn).immediate()],
    [
      'a savepoint by hand',
      (_, tx, fn) => {
        tx.exec('SAVEPOINT mine')
        try {
          fn()
        } finally {
          tx.exec('ROLLBACK TO mine; RELEASE mine')
        }
      },
    ],
  ] satisfies [string, (place: Opened, tx: Database.Database, fn: () => void) => void][])(
    'in %s is gone when that was rolled back, the others stay',
    async (_, savepoint) => {
      const place = await open()
      const { storage, outbox } = place
      const mark = (tx: Database.Database): (() => void) => storage.mark?.(tx) ?? undo()
      await outbox.transaction(async (tx) => {
        // In the first round the table is rolled back with the mark.
        for (let round = 0; round < 3; round++) {
          const before = mark(tx)
          let inside = (): void => {}
          const rolledBack = (): void =>
            savepoint(place, tx, () => {
              tx.exec("INSERT INTO business VALUES ('undone')")
              inside = mark(tx)
              undo()
            })
          expect(rolledBack).toThrow(undone)
          const after = mark(tx)
          await Promise.resolve()
          expect(inside).toThrow(TransactionClosedError)
          expect(inside).toThrow(/await the emit inside it/)
          for (const check of [after, before, after]) expect(check).not.toThrow()
        }
      })
      expect(business(place.db)).toEqual([])
    },
  )

  test('whose table is rolled back with it', async () => {
    const { storage, outbox } = await open()
    await outbox.transaction(async (tx) => {
      const marks: (() => void)[] = []
      for (let round = 0; round < 3; round++) {
        expect(tx.transaction(() => undo(marks.push(storage.mark?.(tx) ?? undo())))).toThrow(undone)
      }
      expect(marks).toHaveLength(3)
      for (const check of marks) expect(check).toThrow(TransactionClosedError)
    })
  })

  test('stays when what it is in is kept, and still goes with what that is in', async () => {
    const { db, storage, outbox } = await open()
    let kept = (): void => {}
    let lost = (): void => {}
    await outbox.transaction(async (tx) => {
      tx.transaction(() => {
        kept = storage.mark?.(tx) ?? undo()
      })()
      const outer = tx.transaction(() => {
        db.transaction(() => {
          lost = storage.mark?.(tx) ?? undo()
        })()
        undo()
      })
      expect(outer).toThrow(undone)
      await Promise.resolve()
      expect(kept).not.toThrow()
      await storage.write([appending(event('kept'))], tx)
      expect(lost).toThrow(TransactionClosedError)
    })
    expect(stored(db)).toEqual(['kept'])
    expect(db.prepare('SELECT * FROM temp._outbox_marks').all()).toEqual([])
    expect(kept).not.toThrow()
    await outbox.transaction(async () => {
      expect(lost).toThrow(TransactionClosedError)
    })
  })

  test('is refused where a write would be', async () => {
    const { db, storage, outbox } = await open()
    db.exec("INSERT INTO business VALUES ('a'), ('b')")
    let late: Database.Database | undefined
    await outbox.transaction(async (tx) => {
      late = tx
      for (const _ of tx.prepare('SELECT * FROM business').iterate()) {
        expect(() => storage.mark?.(tx)).toThrow(/finish the iterate\(\)/)
      }
    })
    expect(() => storage.mark?.(late as typeof db)).toThrow(TransactionClosedError)
  })
})
