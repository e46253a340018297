import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { type NewEvent, OutboxEventBus, type Outcome } from 'outbox-core'
import { afterAll } from 'vitest'
import { SqliteBetterSqlite3Outbox, type SqliteBetterSqlite3OutboxOptions } from '../src/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'outbox-sqlite-'))
const connections: Database.Database[] = []
afterAll(() => {
  for (const db of connections) db.close()
  rmSync(folder, { recursive: true, force: true })
})

let files = 0

/** A path where no file is yet. */
export const newFile = (): string => join(folder, `${files++}.db`)

/** A connection that never blocks the event loop, closed after the tests. */
export function connect(path: string, options: Database.Options = {}): Database.Database {
  const db = new Database(path, { timeout: 0, ...options })
  connections.push(db)
  return db
}

export function outboxOn(
  db: Database.Database,
  options: SqliteBetterSqlite3OutboxOptions = {},
): SqliteBetterSqlite3Outbox<Database.Database> {
  return new SqliteBetterSqlite3Outbox(db, { logger: false, lockTimeout: '10s', ...options })
}

export interface Opened {
  readonly path: string
  readonly db: Database.Database
  readonly outbox: SqliteBetterSqlite3Outbox<Database.Database>
  readonly storage: SqliteBetterSqlite3Outbox<Database.Database>['storage']
  readonly bus: OutboxEventBus<Record<string, unknown>, Database.Database>
}

/** An initialized outbox on a new file, with a table of the user's own beside it. */
export async function open(
  options: SqliteBetterSqlite3OutboxOptions = {},
  connection: Database.Options = {},
): Promise<Opened> {
  const path = newFile()
  const db = connect(path, connection)
  db.exec('CREATE TABLE business (key TEXT)')
  const outbox = outboxOn(db, options)
  await outbox.initialize()
  return { path, db, outbox, storage: outbox.storage, bus: new OutboxEventBus(outbox) }
}

export const event = (id: string, more: Partial<NewEvent> = {}): NewEvent => ({
  ...{
    id,
    type: id,
    address: more.type ?? id,
    key: null,
    body: '{}',
    headers: {},
    due: { inMs: 0 },
    fingerprint: null,
  },
  ...more,
})

export const appending = (...append: NewEvent[]): Outcome => ({ append, put: [], remove: [] })

/** Types of all stored events, which the tests use as names. */
export function stored(db: Database.Database, table = 'outbox_events'): unknown[] {
  return db.prepare(`SELECT type FROM ${table} ORDER BY seq`).pluck().all()
}
