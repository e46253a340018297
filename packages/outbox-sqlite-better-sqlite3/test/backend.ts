import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import type { OutboxOptions } from 'outbox-core'
import type { Backend, Place, RawEvent } from 'outbox-core/testing'
import { SqliteBetterSqlite3Outbox } from '../src/index.ts'

export type Db = Database.Database

export const fileBackend: Backend<Db> = {
  name: 'SQLite in a file',
  traits: { oneWriter: true },
  open: async (options) => {
    const folder = mkdtempSync(join(tmpdir(), 'outbox-sqlite-'))
    return open(join(folder, 'test.db'), options, () => rmSync(folder, { recursive: true }))
  },
}

export const memoryBackend: Backend<Db> = {
  name: 'SQLite in memory',
  traits: { singleClient: true },
  open: (options) => open(':memory:', options, () => {}),
}

async function open(file: string, options: OutboxOptions = {}, drop: () => void): Promise<Place<Db>> {
  const databases: Db[] = []
  let statements = 0
  const connect = (): Db => {
    const db = new Database(file, { verbose: () => statements++ })
    db.pragma('journal_mode = WAL')
    databases.push(db)
    return db
  }
  const db = connect()
  // Looks at the file behind the outbox's back; a database in memory has only the one connection.
  const raw = file === ':memory:' ? db : new Database(file)
  databases.push(raw)
  const outbox = new SqliteBetterSqlite3Outbox<Db>(db, options)
  await outbox.initialize()
  raw.exec('CREATE TABLE business (key TEXT)')
  const rows = <Row>(sql: string): Row[] => raw.prepare(sql).all() as Row[]
  return {
    outbox,
    sibling: async (more) => {
      const sibling = new SqliteBetterSqlite3Outbox<Db>(connect(), { ...options, ...more })
      return sibling
    },
    writeBusinessRow(tx, key) {
      tx.prepare('INSERT INTO business VALUES (?)').run(key)
    },
    businessRows: async () => rows<{ key: string }>('SELECT key FROM business').map(({ key }) => key),
    async ownTransaction(work) {
      db.exec('BEGIN IMMEDIATE')
      try {
        await work(db)
        db.exec('COMMIT')
      } finally {
        if (db.inTransaction) db.exec('ROLLBACK')
      }
    },
    events: async () =>
      rows<Record<string, unknown>>('SELECT * FROM outbox_events ORDER BY seq').map(
        (row) =>
          ({
            id: row['id'],
            type: row['type'],
            body: row['body'],
            headers: JSON.parse(row['headers'] as string),
            state: ['waiting', 'leased', 'done', 'dead', 'blocked'][row['state'] as number],
            attempt: row['attempt'],
          }) as RawEvent,
      ),
    payloads: async () => rows('SELECT id, data, expires_at AS expiresAt FROM saga_store'),
    async overwritePayload(id, data) {
      raw.prepare('UPDATE saga_store SET data = ? WHERE id = ?').run(data, id)
    },
    async expirePayload(id) {
      raw.prepare('UPDATE saga_store SET expires_at = 1 WHERE id = ?').run(id)
    },
    async expireLeases() {
      raw.exec('UPDATE outbox_events SET visible_at = 0 WHERE state = 1')
    },
    roundTrips: () => statements,
    connections: async () => databases.filter(({ open }) => open).length,
    async destroy() {
      await outbox.close()
      for (const database of databases) database.close()
      drop()
    },
  }
}
