import Database from 'better-sqlite3'
import type { Outbox } from 'outbox-core'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { headersOf, type Open } from './adapter.ts'
import type { DriverFaults } from './driver-faults.ts'

export const open: Open = async (_, file, { poolSize: _one, impatient: _never, faults, ...options } = {}) => {
  const db = new Database(file)
  db.pragma('journal_mode = WAL')
  if (faults) makeFaulty(db, faults)
  const outbox = new SqliteBetterSqlite3Outbox<Database.Database>(db, { logger: false, ...options })
  const all = <Row>(text: string): Row[] => db.prepare(text).all() as Row[]
  return {
    outbox: outbox as unknown as Outbox,
    async prepare() {
      await outbox.initialize()
      db.exec('CREATE TABLE rows (key TEXT)')
    },
    write: (tx, key) => (tx as Database.Database).prepare('INSERT INTO rows VALUES (?)').run(key),
    contents: async () => ({
      rows: all<{ key: string }>('SELECT key FROM rows').map(({ key }) => key),
      events: all<{ headers: string }>('SELECT headers FROM outbox_events WHERE state < 2').map(
        ({ headers }) => headersOf(headers),
      ),
      dead: all('SELECT 1 FROM outbox_events WHERE state = 3').length,
      payloads: all<{ id: string }>('SELECT id FROM saga_store').map(({ id }) => id),
    }),
    isLocked: () => isLocked(file),
    async close() {
      await outbox.close()
      db.close()
    },
  }
}

function isLocked(file: string): boolean {
  const db = new Database(file, { timeout: 0 })
  try {
    db.exec('BEGIN IMMEDIATE; ROLLBACK')
    return false
  } catch {
    return true
  } finally {
    db.close()
  }
}

function makeFaulty(db: Database.Database, faults: DriverFaults): void {
  const error = (): Error =>
    faults.oneOf(
      new Database.SqliteError('database is locked', 'SQLITE_BUSY'),
      new Database.SqliteError('disk I/O error', 'SQLITE_IOERR'),
    )
  const prepare = db.prepare.bind(db)
  db.prepare = ((source: string) => {
    const statement = prepare(source)
    for (const method of ['run', 'get', 'all'] as const) {
      const original = statement[method].bind(statement) as (...parameters: unknown[]) => unknown
      statement[method] = ((...parameters: unknown[]) =>
        faults.aroundSync(() => original(...parameters), error)) as never
    }
    return statement
  }) as typeof db.prepare
}
