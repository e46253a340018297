import { TransactionClosedError } from 'outbox-core'
import type { Connection } from './connection.ts'
import type { SqliteDatabase, SqliteStatement } from './database.ts'

// Of the connection alone, and gone with it. A table of the user's with this name would be hidden by it.
const MARKS = '_outbox_marks'

// All outboxes on a connection share its savepoints and marks.
let savepoints = 0
let marks = 0

/** Parts of a transaction. */
export class Savepoints {
  readonly #connection: Connection
  #add: SqliteStatement | undefined
  #remove: SqliteStatement | undefined

  constructor(connection: Connection) {
    this.#connection = connection
  }

  /** Runs `work` in a savepoint, and goes back to it when `work` throws. */
  async nested<R>(tx: SqliteDatabase, work: () => Promise<R>): Promise<R> {
    const { db } = this.#connection
    const name = `outbox_${++savepoints}`
    let result: R
    this.#connection.inside(tx, () => db.exec(`SAVEPOINT ${name}`))
    try {
      result = await work()
    } catch (error) {
      // What failed may have rolled back the whole.
      if (this.#connection.isOpen(tx)) {
        await this.#connection.insideOnceFree(tx, () => db.exec(`ROLLBACK TO ${name}; RELEASE ${name}`))
      }
      throw error
    }
    await this.#connection.insideOnceFree(tx, () => db.exec(`RELEASE ${name}`))
    return result
  }

  /**
   * Leaves a row where `tx` is now: gone when what it is in has been rolled back, by better-sqlite3's `tx.transaction(fn)`
   * or by hand. A row for every mark, since SQLite tells nobody whether a savepoint is open; one that is never asked for
   * stays, a number, until the connection closes.
   */
  mark(tx: SqliteDatabase): () => void {
    const mark = ++marks
    this.#connection.inside(tx, () => this.#leave(mark))
    let found = false
    return () => {
      found ||= this.#connection.inside(tx, () => this.#pick(mark))
      if (found) return
      throw new TransactionClosedError(
        'this emit was in a savepoint (better-sqlite3’s own transaction(fn) inside another one) that was rolled back ' +
          'before the event was written: use outbox.transaction(fn) there, and await the emit inside it',
      )
    }
  }

  #leave(mark: number): void {
    this.#withTable(() => {
      this.#add ??= this.#connection.prepare(`INSERT INTO temp.${MARKS} VALUES (?)`)
      this.#add.run(mark)
    })
  }

  #pick(mark: number): boolean {
    return this.#withTable(() => {
      this.#remove ??= this.#connection.prepare(`DELETE FROM temp.${MARKS} WHERE mark = ?`)
      return this.#remove.run(mark).changes === 1
    })
  }

  // Asked first, not made first: making it costs more than the row. What is rolled back may hold the table too.
  #withTable<R>(run: () => R): R {
    try {
      return run()
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('no such table')) throw error
      this.#connection.db.exec(`CREATE TEMP TABLE ${MARKS} (mark INTEGER PRIMARY KEY)`)
      return run()
    }
  }
}
