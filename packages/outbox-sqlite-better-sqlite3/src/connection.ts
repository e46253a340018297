import { setTimeout as sleep } from 'node:timers/promises'
import {
  ForeignTransactionError,
  TransactionClosedError,
  TransactionMissingError,
  TransactionTimeoutError,
} from 'outbox-core'
import type { SqliteDatabase, SqliteStatement } from './database.ts'
import { isBusy, storageError } from './errors.ts'
import { type Handle, handlesOf, rolledBack } from './handle.ts'
import { SynchronousTransactions } from './synchronous.ts'
import { Turns } from './turns.ts'

/** What all outboxes on one connection have in common. */
interface Shared {
  readonly turns: Turns
  /** The handle of the transaction that an outbox has begun. */
  begun: Handle | undefined
  /** Handles of the transaction that the user has begun. */
  readonly enlisted: Set<Handle>
  /** What every handle on this connection inherits. */
  readonly handles: SqliteDatabase
  readonly synchronous: SynchronousTransactions
}

const shared = new WeakMap<SqliteDatabase, Shared>()

// A file's lock goes to whoever asks first once it is free: who asks rarely seldom gets it.
const PAUSE_MS = 1

/**
 * One better-sqlite3 connection, on which asynchronous transactions take turns: two of them at once would be one
 * transaction, and the first rollback would take the other's rows with it.
 */
export class Connection {
  readonly db: SqliteDatabase
  readonly #shared: Shared
  readonly #lockTimeoutMs: number
  readonly #begin: SqliteStatement
  readonly #commit: SqliteStatement

  constructor(db: SqliteDatabase, lockTimeoutMs: number) {
    this.db = db
    this.#lockTimeoutMs = lockTimeoutMs
    this.#shared = shared.get(db) ?? {
      turns: new Turns(),
      begun: undefined,
      enlisted: new Set(),
      handles: handlesOf(db),
      synchronous: new SynchronousTransactions(db),
    }
    shared.set(db, this.#shared)
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
        if (this.db.open && !this.db.inTransaction) throw rolledBack(handle)
        if (handle.unfit) throw handle.unfit
        await this.#unlocked(() => this.#commit.run())
        return result
      } finally {
        handle.ended = true
        this.#shared.begun = undefined
        this.#rollBack()
      }
    })
  }

  /** Runs statements as one transaction, without giving way to other code. */
  atomically<R>(run: () => R): Promise<R> {
    return this.statements(() => this.#between(run))
  }

  /** Inside `statements`: the same for each of several, in one transaction. */
  together<One, R>(several: readonly One[], run: (one: One) => R): R[] {
    const all = (): R[] => several.map((one) => run(one))
    return several.length > 1 ? this.#between(all) : all()
  }

  #between<R>(run: () => R): R {
    this.#begin.run()
    try {
      const result = run()
      this.#commit.run()
      return result
    } finally {
      this.#rollBack()
    }
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
    this.#shared.enlisted.add(handle)
    try {
      return await work(handle)
    } finally {
      this.#shared.enlisted.delete(handle)
      handle.ended = true
    }
  }

  /** @throws TransactionClosedError when what belongs to no transaction comes from inside `db.transaction(fn)` */
  assertOutside(): void {
    if (!this.#shared.synchronous.running) return
    throw new TransactionClosedError(
      'better-sqlite3’s own db.transaction(fn) is over before anything asynchronous in it is written: use ' +
        'outbox.transaction(fn), or BEGIN and COMMIT around outbox.enlist(db, fn)',
    )
  }

  /** Runs statements that belong to no transaction, once none is open; `urgent` ones before whoever waits too. */
  async statements<R>(run: () => R, { urgent = false }: { readonly urgent?: boolean } = {}): Promise<R> {
    if (!this.#shared.turns.mustWait && !this.db.inTransaction) {
      try {
        return run()
      } catch (error) {
        if (!isBusy(error)) throw storageError(error)
      }
    }
    return this.#alone('a statement of the outbox', () => this.#patiently(run), urgent)
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

  /** Ends a part of a transaction. When even that fails, the whole must not be committed. */
  async insideOnceFree<R>(tx: SqliteDatabase, run: () => R): Promise<R> {
    this.#assertOpen(tx, 'use the tx you were given')
    try {
      return await this.#unlocked(run)
    } catch (error) {
      if (tx !== this.db) (tx as Handle).unfit = storageError(error)
      throw storageError(error)
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
      if (this.db.inTransaction && !this.#shared.begun) return
      throw new TransactionMissingError(`the connection has no transaction of its own open; ${advice}`)
    }
    if (Object.getPrototypeOf(tx) !== this.#shared.handles) {
      throw new ForeignTransactionError(
        'the transaction belongs to another connection than the better-sqlite3 Database that the outbox was made with',
      )
    }
    if (!this.isOpen(tx)) throw new TransactionClosedError()
  }

  /** Whether the transaction that a handle was made for goes on. */
  isOpen(tx: SqliteDatabase): boolean {
    return this.db.inTransaction && !(tx as Handle).ended
  }

  // An object of its own for each transaction tells a late use from a right one.
  #newHandle(): Handle {
    return Object.create(this.#shared.handles)
  }

  #beginAs(handle: Handle): void {
    this.#begin.run()
    this.#shared.begun = handle
    // Whatever is still enlisted has outlived its transaction, and must not end up in this one.
    for (const stale of this.#shared.enlisted) stale.ended = true
  }

  #rollBack(): void {
    if (this.db.inTransaction) this.db.exec('ROLLBACK')
  }

  #alone<R>(what: string, work: () => R | Promise<R>, urgent = false): Promise<R> {
    return this.#shared.turns.take(what, { timeoutMs: this.#lockTimeoutMs, urgent }, work)
  }

  /** Runs statements as soon as neither the user nor another process is in their way. */
  #patiently<R>(run: () => R): R | Promise<R> {
    return this.#unlocked(() => {
      if (!this.db.inTransaction) return run()
      throw new TransactionTimeoutError(
        `waited ${this.#lockTimeoutMs} ms for a transaction that was begun by hand on the outbox's connection; ` +
          'wrap what you emit in it in outbox.enlist(db, fn)',
      )
    })
  }

  #unlocked<R>(run: () => R): R | Promise<R> {
    try {
      return run()
    } catch (error) {
      return this.#repeated(run, error)
    }
  }

  // Another process may hold the file's lock: waiting here leaves the event loop free.
  async #repeated<R>(run: () => R, failure: unknown): Promise<R> {
    const giveUpAt = Date.now() + this.#lockTimeoutMs
    for (let error = failure; ; ) {
      const passing = isBusy(error) || error instanceof TransactionTimeoutError
      if (!passing || Date.now() >= giveUpAt) throw storageError(error)
      await sleep(PAUSE_MS)
      try {
        return run()
      } catch (thrown) {
        error = thrown
      }
    }
  }
}
