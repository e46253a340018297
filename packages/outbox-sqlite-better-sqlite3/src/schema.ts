import { assertKnownSchema, UnsupportedBackendError } from 'outbox-core'
import type { Connection } from './connection.ts'

/** Checked names. */
export interface Tables {
  readonly events: string
  readonly payloads: string
  readonly migrations: string
}

/** Milliseconds since the epoch by SQLite's own clock. */
export const NOW = "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"

/** What `state` holds. A leased event whose `visible_at` has passed is due again. */
export const STATE = { waiting: 0, leased: 1, done: 2, dead: 3, blocked: 4 } as const

/** An event’s address: the column holds only what is not its type. */
export const ADDRESS = 'coalesce(address, type)'

/** The indexes that statements name. */
export function indexesOf({
  events,
  payloads,
}: Tables): Record<'open' | 'done' | 'dead' | 'keys' | 'expires', string> {
  return {
    open: `${events}_by_address`,
    done: `${events}_done`,
    dead: `${events}_dead`,
    keys: `${events}_keys`,
    expires: `${payloads}_expires`,
  }
}

/** A name in the connection's own file: a temporary table, or one of an attached file, may be called the same. */
export function inMain(name: string): string {
  return `main."${name}"`
}

/** A table, and how it came to be what it is. */
interface Layout {
  readonly name: string
  /** Numbered from 1. Never change one that was released: append another. */
  readonly migrations: readonly string[]
  /** As they are after the last migration. */
  readonly indexes: readonly (readonly [name: string, on: string])[]
}

function layouts(tables: Tables): readonly Layout[] {
  const { events, payloads } = tables
  const { open, done, dead, keys, expires } = indexesOf(tables)
  return [
    {
      name: events,
      migrations: [
        `CREATE TABLE ${inMain(events)} (
          seq INTEGER PRIMARY KEY,
          id TEXT NOT NULL UNIQUE,
          type TEXT NOT NULL,
          body TEXT NOT NULL,
          headers TEXT NOT NULL,
          fingerprint TEXT,
          created_at INTEGER NOT NULL,
          visible_at INTEGER NOT NULL,
          attempt INTEGER NOT NULL DEFAULT 0,
          uncounted INTEGER NOT NULL DEFAULT 0,
          state INTEGER NOT NULL DEFAULT 0,
          error TEXT,
          died_at INTEGER
        ) STRICT`,
        `ALTER TABLE ${inMain(events)} ADD COLUMN address TEXT;
        ALTER TABLE ${inMain(events)} ADD COLUMN key TEXT;
        ALTER TABLE ${inMain(events)} ADD COLUMN place INTEGER;
        DROP INDEX IF EXISTS ${inMain(`${events}_open`)}`,
      ],
      indexes: [
        [open, `(${ADDRESS}, visible_at, seq) WHERE state < 2`],
        [keys, '(key, place, seq, state) WHERE key IS NOT NULL'],
        [done, '(visible_at) WHERE state = 2'],
        [dead, '(died_at, seq) WHERE state = 3'],
      ],
    },
    {
      name: payloads,
      // Outboxes that note their migrations apart may share one.
      migrations: [
        `CREATE TABLE IF NOT EXISTS ${inMain(payloads)} (
          id TEXT PRIMARY KEY,
          data BLOB NOT NULL,
          expires_at INTEGER NOT NULL
        ) STRICT`,
      ],
      indexes: [[expires, '(expires_at)']],
    },
  ]
}

/** Brings the tables up to date, in one transaction that keeps out other processes. */
export async function migrate(connection: Connection, tables: Tables): Promise<void> {
  const { db } = connection
  if (db.readonly) {
    throw new UnsupportedBackendError(
      'the SQLite connection is read-only; open it without { readonly: true }',
    )
  }
  await connection.statements(() => assertSupported(connection))
  await connection.atomically(() => {
    const notes = new Notes(connection, tables.migrations)
    for (const { name, migrations, indexes } of layouts(tables)) {
      const done = notes.version(name)
      assertKnownSchema(`table "${name}"`, done, migrations.length)
      for (const [index, sql] of migrations.entries()) {
        if (index < done) continue
        db.exec(sql)
        notes.add(name, index + 1)
      }
      for (const [index, on] of indexes) {
        if (!exists(connection, 'index', index, name))
          db.exec(`CREATE INDEX ${inMain(index)} ON "${name}" ${on}`)
      }
    }
  })
}

/**
 * Where migrations are noted, each with its table (the column was called so when only tables of events were noted):
 * outboxes may share one, or have tables of their own.
 */
class Notes {
  readonly #connection: Connection
  readonly #table: string

  constructor(connection: Connection, table: string) {
    this.#connection = connection
    this.#table = inMain(table)
    connection.db.exec(
      `CREATE TABLE IF NOT EXISTS ${this.#table} (
        events TEXT NOT NULL,
        version INTEGER NOT NULL,
        applied_at INTEGER NOT NULL,
        PRIMARY KEY (events, version)
      ) STRICT`,
    )
  }

  /** The last migration of a table; 0 when it is not there, or was dropped. */
  version(name: string): number {
    if (!exists(this.#connection, 'table', name, name)) return 0
    const last = this.#connection.prepare(
      `SELECT coalesce(max(version), 0) AS done FROM ${this.#table} WHERE events = ? COLLATE NOCASE`,
    )
    return last.pluck(true).get(name) as number
  }

  add(name: string, version: number): void {
    const note = this.#connection.prepare(`INSERT OR REPLACE INTO ${this.#table} VALUES (?, ?, ${NOW})`)
    note.run(name, version)
  }
}

function exists(connection: Connection, type: 'table' | 'index', name: string, table: string): boolean {
  const found = connection.prepare(
    'SELECT 1 AS found FROM main.sqlite_schema WHERE type = ? AND name = ? COLLATE NOCASE AND tbl_name = ? COLLATE NOCASE',
  )
  return found.get(type, name, table) !== undefined
}

function assertSupported(connection: Connection): void {
  const value = (sql: string): unknown => connection.prepare(sql).pluck(true).get()
  const version = String(value('SELECT sqlite_version() AS version'))
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major < 3 || (major === 3 && minor < 42)) {
    throw new UnsupportedBackendError(`SQLite is ${version}, 3.42 or newer is needed; update better-sqlite3`)
  }
  if (value('PRAGMA query_only') === 1) {
    throw new UnsupportedBackendError(
      'the SQLite connection has query_only set, and can write nothing; run PRAGMA query_only = 0',
    )
  }
}
