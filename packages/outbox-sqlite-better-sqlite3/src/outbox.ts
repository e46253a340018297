import { type Duration, durationMs, identifiers, Outbox, type OutboxOptions } from 'outbox-core'
import { Connection } from './connection.ts'
import type { SqliteDatabase } from './database.ts'
import type { Tables } from './schema.ts'
import { SqliteStorage } from './storage.ts'

export interface SqliteBetterSqlite3OutboxOptions extends OutboxOptions {
  /** Names of the tables: a letter or _, then letters, digits and _, at most 48 characters. */
  readonly tables?: {
    /** @default 'outbox_events' */
    readonly events?: string
    /** @default 'saga_store' */
    readonly payloads?: string
    /** @default 'outbox_migrations' */
    readonly migrations?: string
  }
  /**
   * How long to wait for a lock: for other transactions on this connection, and for other processes on the file. Only
   * this waiting leaves the event loop free: open the connection with `{ timeout: 0 }`, since better-sqlite3's own busy
   * timeout (5 s unless you set it) blocks the process.
   * @default '30s'
   */
  readonly lockTimeout?: Duration
}

/**
 * A transactional outbox in the SQLite database of a better-sqlite3 connection (12 or newer; SQLite 3.42 or newer).
 *
 * `transaction` hands out the connection as `tx`. It may run asynchronous code: transactions on one connection take
 * turns. What can't be seen is a statement that other code runs on the same connection meanwhile: it joins the open
 * transaction. Give such code a connection of its own. A write of several rows that fails halfway inside a transaction
 * rolls the whole transaction back, an enlisted one too: half of it must not be committed.
 */
export class SqliteBetterSqlite3Outbox<Db extends SqliteDatabase = SqliteDatabase> extends Outbox<Db> {
  /**
   * @param db your own open connection; the outbox never closes it
   * @throws ConfigurationError naming the option and its value
   */
  constructor(db: Db, options: SqliteBetterSqlite3OutboxOptions = {}) {
    const {
      events = 'outbox_events',
      payloads = 'saga_store',
      migrations = 'outbox_migrations',
    } = options.tables ?? {}
    const tables: Tables = identifiers('tables', { events, payloads, migrations })
    const connection = new Connection(db, durationMs('lockTimeout', options.lockTimeout ?? '30s'))
    super(new SqliteStorage(connection, tables), options)
  }
}
