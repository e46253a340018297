import { setTimeout as sleep } from 'node:timers/promises'
import { Mutex, type MutexInterface, withTimeout } from 'async-mutex'
import {
  ForeignTransactionError,
  TransactionClosedError,
  TransactionMissingError,
  TransactionTimeoutError,
} from 'outbox-core'
import { isBusy, storageError } from './errors.ts'
import { type Handle, handlesOf, rolledBack } from './handle.ts'

/** The part of better-sqlite3's Database that is used. */
export interface SqliteDatabase {
  prepare(sql: string): SqliteStatement
  exec(sql: string): unknown
  readonly inTransaction: boolean
  readonly readonly: boolean
  readonly memory: boolean
  readonly name: string
}

export interface SqliteStatement {
  run(...parameters: unknown[]): { changes: number }
  get(...parameters: unknown[]): unknown
  all(...parameters: unknown[]): unknown[]
  pluck(on: boolean): SqliteStatement
  safeIntegers(on: boolean): SqliteStatement
}

/** Who holds a connection, for all outboxes on it. */
interface Turn {
  readonly mutex: Mutex
  /** What holds it, for whoever waits in vain. */
  holder?: { readonly what: string; readonly since: Date }
  /** The handle of the transaction that an outbox has begun. */
  begun?: Handle
  /** Handles of the transaction that the user has begun. */
  readonly enlisted: Set<Handle>
  /** What every handle on this connection inherits. */
  readonly handles: SqliteDatabase
}

const turns = new WeakMap<SqliteDatabase, Turn>()

const PAUSE_MS = 5

/**
 * One better-sqlite3 connection, on which asynchronous transactions take turns: two of them at once would be one
 * transaction, and the first rollback would take the other's rows with it.
 */
export class Connection {
  readonly db: SqliteDatabase
  readonly #turn: Turn
  readonly #mutex: MutexInterface
  readonly #lockTimeoutMs: number
  readonly #begin: SqliteStatement
  readonly #commit: SqliteStatement

  constructor(db: SqliteDatabase, lockTimeoutMs: number) {
    this.db = db
    this.#lockTimeoutMs = lockTimeoutMs
    this.#turn = turns.get(db) ?? { mutex: new Mutex(), enlisted: new Set(), handles: handlesOf(db) }
    turns.set(db, this.#turn)
    this.#mutex = withTimeout(this.#turn.mutex, lockTimeoutMs)
    try {
      this.#begin = this.prepare('BEGIN IMMEDIATE')
      this.#commit = this.prepare('COMMIT')
    } catch (error) {
      throw storageError(error)
    }
  }

  /**
   * Reads the schema when that has not been done or has changed, so it may find the file locked: prepare where
   * statements run. Integers come as numbers whatever the user has set for the connection.
   */
  prepare(sql: string): SqliteStatement {
    return this.db.prepare(sql).safeIntegers(false)
  }

  /** Runs `work` between BEGIN IMMEDIATE and COMMIT. */
  transaction<R>(work: (tx: SqliteDatabase) => Promise<R>): Promise<R> {
    return this.#alone('outbox.transaction', async () => {
      const handle = this.#newHandle()
      await this.#patiently(() => {
        this.#beginAs(handle)
      })
      try {
        const result = await work(handle)
        if (!this.db.inTransaction) throw rolledBack(handle)
        await this.#unlocked(() => this.#commit.run())
        return result
      } finally {
        handle.ended = true
        delete this.#turn.begun
        this.#rollBack()
      }
    })
  }

  /** Runs statements as one transaction, without giving way to other code. */
  atomically<R>(run: () => R): Promise<R> {
    return this.statements(() => {
      this.#begin.run()
      try {
        const result = run()
        this.#commit.run()
        return result
      } finally {
        this.#rollBack()
      }
    })
  }

  /**
   * Runs `work` in a transaction that the user began on this connection. It needs no turn: as long as that transaction
   * is open, whoever has the turn waits for it.
   */
  async enlist<R>(tx: SqliteDatabase, work: (tx: SqliteDatabase) => Promise<R>): Promise<R> {
    this.#assertOpen(tx, 'run BEGIN IMMEDIATE first')
    // The open transaction of another outbox on this connection.
    if (tx !== this.db) return work(tx)
    const handle = this.#newHandle()
    this.#turn.enlisted.add(handle)
    try {
      return await work(handle)
    } finally {
      this.#turn.enlisted.delete(handle)
      handle.ended = true
    }
  }

  /** Runs statements that belong to no transaction, once none is open. */
  async statements<R>(run: () => R): Promise<R> {
    if (!this.#turn.mutex.isLocked() && !this.db.inTransaction) {
      try {
        return run()
      } catch (error) {
        if (!isBusy(error)) throw storageError(error)
      }
    }
    return this.#alone('a statement of the outbox', () => this.#patiently(run))
  }

  /**
   * Runs statements in a transaction that was handed out, or in one that the user began. When the second of `several`
   * fails, what the first has written must not be committed, and only the whole transaction can be rolled back.
   */
  inside<R>(tx: SqliteDatabase, run: () => R, { several = false }: { readonly several?: boolean } = {}): R {
    this.#assertOpen(tx, 'use the tx you were given')
    try {
      return several ? this.#allOrNone(run) : run()
    } catch (thrown) {
      const error = storageError(thrown)
      if (tx !== this.db) (tx as Handle).failure = error
      throw error
    }
  }

  #allOrNone<R>(run: () => R): R {
    // Under an open iterator some statements work, and ROLLBACK does not. This refuses then, at no statement's cost.
    this.db.exec('')
    try {
      return run()
    } catch (error) {
      this.#rollBack()
      throw error
    }
  }

  #assertOpen(tx: SqliteDatabase, advice: string): void {
    if (tx === this.db) {
      if (this.db.inTransaction && !this.#turn.begun) return
      throw new TransactionMissingError(`the connection has no transaction of its own open; ${advice}`)
    }
    if (Object.getPrototypeOf(tx) !== this.#turn.handles) {
      throw new ForeignTransactionError(
        'the transaction belongs to another connection than the better-sqlite3 Database that the outbox was made with',
      )
    }
    if ((tx as Handle).ended || !this.db.inTransaction) throw new TransactionClosedError()
  }

  // An object of its own for each transaction tells a late use from a right one.
  #newHandle(): Handle {
    return Object.create(this.#turn.handles)
  }

  #beginAs(handle: Handle): void {
    this.#begin.run()
    this.#turn.begun = handle
    // Whatever is still enlisted has outlived its transaction, and must not end up in this one.
    for (const stale of this.#turn.enlisted) stale.ended = true
  }

  #rollBack(): void {
    if (this.db.inTransaction) this.db.exec('ROLLBACK')
  }

  async #alone<R>(what: string, work: () => Promise<R>): Promise<R> {
    const release = await this.#acquire()
    this.#turn.holder = { what, since: new Date() }
    try {
      return await work()
    } finally {
      delete this.#turn.holder
      release()
    }
  }

  #acquire(): Promise<MutexInterface.Releaser> {
    if (!this.#turn.mutex.isLocked()) return this.#turn.mutex.acquire()
    return this.#mutex.acquire().catch(() => {
      throw this.#timedOut()
    })
  }

  #timedOut(): TransactionTimeoutError {
    const { what = 'a transaction', since } = this.#turn.holder ?? {}
    return new TransactionTimeoutError(
      `waited ${this.#lockTimeoutMs} ms for ${what}, open on this connection since ${since?.toISOString()}; ` +
        'await it before starting another one, and inside it use the outbox only in its own async context',
    )
  }

  /** Runs statements as soon as neither the user nor another process is in their way. */
  #patiently<R>(run: () => R): Promise<R> {
    return this.#unlocked(() => {
      if (!this.db.inTransaction) return run()
      throw new TransactionTimeoutError(
        `waited ${this.#lockTimeoutMs} ms for a transaction that was begun by hand on the outbox's connection; ` +
          'wrap what you emit in it in outbox.enlist(db, fn)',
      )
    })
  }

  // Another process may hold the file's lock: waiting here leaves the event loop free.
  async #unlocked<R>(run: () => R): Promise<R> {
    const giveUpAt = Date.now() + this.#lockTimeoutMs
    for (;;) {
      try {
        return run()
      } catch (error) {
        const passing = isBusy(error) || error instanceof TransactionTimeoutError
        if (!passing || Date.now() >= giveUpAt) throw storageError(error)
        await sleep(PAUSE_MS)
      }
    }
  }
}
