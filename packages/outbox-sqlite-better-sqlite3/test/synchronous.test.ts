import { TransactionClosedError } from 'outbox-core'
import { sleep } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { connect, newFile, type Opened, open, outboxOn } from './opened.ts'

const outside = ({ storage }: Opened): void => storage.assertOutside?.()

describe('inside better-sqlite3’s own transaction', () => {
  test('whatever kind of it, and however it is called, an emit that belongs to none is refused', async () => {
    const place = await open()
    const { db } = place
    const transaction = db.transaction(() => outside(place))
    const {
      default: plain,
      deferred,
      immediate,
      exclusive,
    } = transaction as typeof transaction & {
      default: typeof transaction
    }
    const repository = { transaction, nested: db.transaction(() => repository.transaction()) }
    const kinds = [plain, deferred, immediate, exclusive, repository.nested, () => repository.transaction()]
    for (const kind of kinds) expect(kind).toThrow(TransactionClosedError)
    expect(transaction).toThrow(/outbox\.transaction\(fn\), or BEGIN and COMMIT around outbox\.enlist/)
    expect(db.inTransaction).toBe(false)
    expect(() => outside(place)).not.toThrow()
  })

  test('however deep in it, and while an iterator is open', async () => {
    const place = await open()
    const { db } = place
    db.exec("INSERT INTO business VALUES ('a'), ('b')")
    const deep = (left: number): void => (left === 0 ? outside(place) : deep(left - 1))
    expect(db.transaction(() => deep(1_000))).toThrow(TransactionClosedError)
    const iterating = db.transaction(() => {
      for (const _ of db.prepare('SELECT * FROM business').iterate()) outside(place)
    })
    expect(iterating).toThrow(TransactionClosedError)
  })

  test('of an outbox that was made inside it, or while an iterator was open', async () => {
    const { db, outbox } = await open()
    const made = db.transaction(() => outboxOn(db).storage.assertOutside?.())
    expect(made).toThrow(TransactionClosedError)
    let late: typeof outbox | undefined
    const other = connect(newFile())
    for (const _ of other.prepare('SELECT 1').iterate()) late = outboxOn(other)
    expect(other.transaction(() => late?.storage.assertOutside?.())).toThrow(TransactionClosedError)
  })

  test('as a savepoint in what an outbox has open for others', async () => {
    const place = await open()
    const { db, outbox } = place
    await outbox.transaction(async () => {
      expect(() => outside(place)).not.toThrow()
      expect(db.transaction(() => outside(place))).toThrow(TransactionClosedError)
    })
  })

  test('leaves nothing behind that others see of their stacks', async () => {
    const place = await open()
    const { prepareStackTrace, stackTraceLimit } = Error
    Error.stackTraceLimit = 3
    Error.prepareStackTrace = () => 'mine'
    try {
      expect(place.db.transaction(() => outside(place))).toThrow(TransactionClosedError)
      expect([Error.stackTraceLimit, new Error('x').stack]).toEqual([3, 'mine'])
    } finally {
      Object.assign(Error, { prepareStackTrace, stackTraceLimit })
    }
  })
})

describe('outside it', () => {
  test('a transaction of others is waited for, not refused: by hand or an outbox’s', async () => {
    const place = await open()
    const { db, outbox, bus } = place
    db.exec('BEGIN')
    expect(() => outside(place)).not.toThrow()
    await outbox.enlist(db, async () => {
      expect(() => outside(place)).not.toThrow()
    })
    db.exec('ROLLBACK')
    const held = outbox.transaction(() => sleep(5))
    await sleep(1)
    expect(() => outside(place)).not.toThrow()
    await Promise.all([held, bus.emit('a', {})])
  })

  test('what a synchronous transaction has left to later is not in it', async () => {
    const place = await open()
    const later = place.db.transaction(() => ({ emit: Promise.resolve().then(() => outside(place)) }))()
    place.db.exec('BEGIN')
    await expect(later.emit).resolves.toBeUndefined()
    place.db.exec('ROLLBACK')
  })
})
