import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { v7 as uuid } from 'uuid'
import { type Arm, assertDelivered, type Workload } from './measure.ts'
import { drain, emitInTransaction, type Fresh, sagas } from './ours.ts'

const NOW = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"

async function open(): Promise<Fresh<Database.Database> & { db: Database.Database }> {
  const folder = mkdtempSync(join(tmpdir(), 'outbox-bench-'))
  const db = new Database(join(folder, 'bench.db'))
  db.pragma('journal_mode = WAL')
  db.pragma('synchronous = FULL')
  const outbox = new SqliteBetterSqlite3Outbox<Database.Database>(db, { logger: false })
  await outbox.initialize()
  db.exec('CREATE TABLE business (n INTEGER)')
  const business = db.prepare('INSERT INTO business VALUES (1)')
  return {
    db,
    outbox,
    write: () => business.run(),
    close() {
      db.close()
      rmSync(folder, { recursive: true })
    },
  }
}

const INSERT = `INSERT INTO outbox_events (id, type, body, headers, created_at, visible_at) VALUES (?, 'noop', ?, '{}', ${NOW}, ${NOW})`

function insertAll(db: Database.Database, count: number): void {
  const insert = db.prepare(INSERT)
  db.transaction(() => {
    for (let n = 0; n < count; n++) insert.run(uuid(), JSON.stringify({ n }))
  })()
}

/** Lease 100, parse, delete: what one would write without a library. */
function drainByHand(count: number): Arm {
  return {
    name: 'better-sqlite3 by hand',
    async run(time) {
      const { db, close } = await open()
      insertAll(db, count)
      const lease =
        db.prepare(`UPDATE outbox_events SET state = 1, attempt = attempt + 1, visible_at = ${NOW} + 30000
        WHERE seq IN (SELECT seq FROM outbox_events WHERE state < 2 AND visible_at <= ${NOW} ORDER BY visible_at, seq LIMIT 100)
        RETURNING id, body`)
      const remove = db.prepare(
        'DELETE FROM outbox_events WHERE id IN (SELECT value FROM json_each(?)) AND state = 1',
      )
      let handled = 0
      await time(() => {
        for (;;) {
          const rows = lease.all() as { id: string; body: string }[]
          if (rows.length === 0) return
          for (const { body } of rows) if (JSON.parse(body)) handled++
          remove.run(JSON.stringify(rows.map(({ id }) => id)))
        }
      })
      assertDelivered(count, handled)
      await close()
      return count
    },
  }
}

/** One row at a time: the poll loop that everyone writes first. */
function drainNaively(count: number): Arm {
  return {
    name: 'naive: one row a time',
    async run(time) {
      const { db, close } = await open()
      insertAll(db, count)
      const next = db.prepare('SELECT seq, body FROM outbox_events ORDER BY seq LIMIT 1')
      const remove = db.prepare('DELETE FROM outbox_events WHERE seq = ?')
      let handled = 0
      await time(() => {
        for (let row = next.get(); row; row = next.get()) {
          const { seq, body } = row as { seq: number; body: string }
          if (JSON.parse(body)) handled++
          remove.run(seq)
        }
      })
      assertDelivered(count, handled)
      await close()
      return count
    },
  }
}

function emitByHand(count: number): Arm {
  return {
    name: 'better-sqlite3 by hand',
    async run(time) {
      const { db, close } = await open()
      const business = db.prepare('INSERT INTO business VALUES (1)')
      const insert = db.prepare(INSERT)
      await time(() => {
        for (let n = 0; n < count; n++) {
          db.exec('BEGIN IMMEDIATE')
          business.run()
          insert.run(uuid(), JSON.stringify({ n }))
          db.exec('COMMIT')
        }
      })
      await close()
      return count
    },
  }
}

export async function sqlite(scale: number): Promise<readonly Workload[]> {
  const events = Math.round(40_000 * scale)
  const emits = Math.round(3_000 * scale)
  return [
    {
      name: 'sqlite: emit in the caller’s transaction',
      target: 0.9,
      arms: [emitByHand(emits), emitInTransaction(open, emits)],
    },
    {
      name: 'sqlite: drain no-op events, concurrency 24',
      target: 0.7,
      arms: [drainByHand(events), drain(open, events, 24), drainNaively(Math.round(events / 10))],
    },
    { name: 'sqlite: three-step sagas, steps', arms: [sagas(open, Math.round(2_000 * scale), 0)] },
    {
      name: 'sqlite: three-step sagas with 50 KB slips, steps',
      arms: [sagas(open, Math.round(500 * scale), 50_000)],
    },
  ]
}
