import { setTimeout as sleep } from 'node:timers/promises'
import { Mutex, type MutexInterface, withTimeout } from 'async-mutex'
import {
  ForeignTransactionError,
  StorageError,
  TransactionClosedError,
  TransactionMissingError,
  TransactionTimeoutError,
} from 'outbox-core'
import { isBusy, storageError } from './errors.ts'

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
}

/** Who holds a connection, for all outboxes on it. */
interface Turn {
  readonly mutex: Mutex
  /** What holds it, for whoever waits in vain. */
  holder?: { readonly what: string; readonly since: Date }
  /** The handle of the open transaction. */
  handle?: SqliteDatabase
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
    this.#turn = turns.get(db) ?? { mutex: new Mutex(), handles: handlesOf(db) }
    turns.set(db, this.#turn)
    this.#mutex = withTimeout(this.#turn.mutex, lockTimeoutMs)
    this.#begin = db.prepare('BEGIN IMMEDIATE')
    this.#commit = db.prepare('COMMIT')
  }

  /** Runs `work` between BEGIN IMMEDIATE and COMMIT. */
  transaction<R>(work: (tx: SqliteDatabase) => Promise<R>): Promise<R> {
    return this.#alone('outbox.transaction', async () => {
      await this.#lockFree(() => this.#begin.run())
      try {
        const result = await this.#handOut(work)
        if (!this.db.inTransaction) {
          throw new StorageError(
            'SQLite rolled the transaction back after an error inside it; nothing was written',
            {
              transient: false,
            },
          )
        }
        await this.#lockFree(() => this.#commit.run())
        return result
      } finally {
        if (this.db.inTransaction) this.db.exec('ROLLBACK')
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
        if (this.db.inTransaction) this.db.exec('ROLLBACK')
      }
    })
  }

  /** Runs `work` in a transaction that the user began on this connection. */
  enlist<R>(tx: SqliteDatabase, work: (tx: SqliteDatabase) => Promise<R>): Promise<R> {
    if (tx !== this.db) {
      throw new ForeignTransactionError(
        'enlist takes the better-sqlite3 connection that the outbox was made with',
      )
    }
    return this.#alone('outbox.enlist', () => {
      if (this.db.inTransaction) return this.#handOut(work)
      throw new TransactionMissingError('no transaction is open on the connection; run BEGIN IMMEDIATE first')
    })
  }

  /** Runs statements that belong to no transaction, once none is open. */
  async statements<R>(run: () => R): Promise<R> {
    if (this.#turn.mutex.isLocked() || this.db.inTransaction) {
      return this.#alone('a write of the outbox', async () => {
        await this.#untilNoTransaction()
        return this.#lockFree(run)
      })
    }
    return this.#lockFree(run)
  }

  /** Runs statements in a transaction that was handed out, or in one that the user began. */
  inside<R>(tx: SqliteDatabase, run: () => R): R {
    const own = tx === this.db && this.db.inTransaction && !this.#turn.mutex.isLocked()
    if (tx !== this.#turn.handle && !own) throw this.#notOpen(tx)
    try {
      return run()
    } catch (error) {
      throw storageError(error)
    }
  }

  #notOpen(tx: SqliteDatabase): Error {
    if (tx === this.db) {
      return new TransactionMissingError(
        'the connection has no transaction of its own open; use the tx you were given',
      )
    }
    if (Object.getPrototypeOf(tx) === this.#turn.handles) return new TransactionClosedError()
    return new ForeignTransactionError('the transaction belongs to another connection than the outbox')
  }

  // An object of its own for each transaction tells a late use from a right one.
  async #handOut<R>(work: (tx: SqliteDatabase) => Promise<R>): Promise<R> {
    const handle: Handle = Object.create(this.#turn.handles)
    this.#turn.handle = handle
    try {
      return await work(handle)
    } finally {
      delete this.#turn.handle
      handle.ended = true
    }
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

  async #untilNoTransaction(): Promise<void> {
    const giveUpAt = Date.now() + this.#lockTimeoutMs
    while (this.db.inTransaction) {
      if (Date.now() >= giveUpAt) {
        throw new TransactionTimeoutError(
          `waited ${this.#lockTimeoutMs} ms for a transaction that was begun by hand on the outbox's connection; ` +
            'wrap what you emit in it in outbox.enlist(db, fn)',
        )
      }
      await sleep(PAUSE_MS)
    }
  }

  // Another process may hold the file's lock: waiting here leaves the event loop free.
  async #lockFree<R>(run: () => R): Promise<R> {
    const giveUpAt = Date.now() + this.#lockTimeoutMs
    for (;;) {
      try {
        return run()
      } catch (error) {
        if (!isBusy(error) || Date.now() >= giveUpAt) throw storageError(error)
        await sleep(PAUSE_MS)
      }
    }
  }
}

type Handle = SqliteDatabase & { ended?: true }

/** The connection as its transactions see it: the same, until they have ended. */
function handlesOf(db: SqliteDatabase): SqliteDatabase {
  const handles: Record<string, unknown> = Object.create(db)
  for (const method of ['prepare', 'exec', 'pragma', 'transaction'] as const) {
    const original = (db as unknown as Record<string, unknown>)[method]
    if (typeof original !== 'function') continue
    handles[method] = function (this: Handle, ...parameters: unknown[]): unknown {
      if (this.ended) throw new TransactionClosedError()
      return original.apply(db, parameters)
    }
  }
  return handles as unknown as SqliteDatabase
}
