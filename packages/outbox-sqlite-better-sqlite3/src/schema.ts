import { UnsupportedBackendError } from 'outbox-core'
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
export const STATE = { waiting: 0, leased: 1, done: 2, dead: 3 } as const

/** Numbered from 1. Never change one that was released: append another. Outboxes may share a table of payloads. */
function migrations({ events, payloads }: Tables): readonly string[] {
  return [
    `CREATE TABLE "${events}" (
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
    ) STRICT;
    CREATE INDEX "${events}_open" ON "${events}" (visible_at, seq) WHERE state < 2;
    CREATE INDEX "${events}_done" ON "${events}" (visible_at) WHERE state = 2;
    CREATE INDEX "${events}_dead" ON "${events}" (died_at, seq) WHERE state = 3;
    CREATE TABLE IF NOT EXISTS "${payloads}" (
      id TEXT PRIMARY KEY,
      data BLOB NOT NULL,
      expires_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS "${payloads}_expires" ON "${payloads}" (expires_at);`,
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
  await connection.atomically(() => {
    assertSupported(connection)
    db.exec(
      `CREATE TABLE IF NOT EXISTS "${tables.migrations}" (
        events TEXT NOT NULL,
        version INTEGER NOT NULL,
        applied_at INTEGER NOT NULL,
        PRIMARY KEY (events, version)
      ) STRICT`,
    )
    const last = connection.prepare(
      `SELECT coalesce(max(version), 0) AS done FROM "${tables.migrations}" WHERE events = ?`,
    )
    const { done } = last.get(tables.events) as { done: number }
    const record = connection.prepare(`INSERT INTO "${tables.migrations}" VALUES (?, ?, ${NOW})`)
    for (const [index, sql] of migrations(tables).entries()) {
      if (index < done) continue
      db.exec(sql)
      record.run(tables.events, index + 1)
    }
  })
}

function assertSupported(connection: Connection): void {
  const { version } = connection.prepare('SELECT sqlite_version() AS version').get() as { version: string }
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major < 3 || (major === 3 && minor < 42)) {
    throw new UnsupportedBackendError(`SQLite is ${version}, 3.42 or newer is needed; update better-sqlite3`)
  }
}
