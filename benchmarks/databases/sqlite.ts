import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import { v7 as uuid } from 'uuid'
import {
  armsOn,
  type Contender,
  type Database,
  type Handle,
  type OpenOptions,
  polling,
} from '../contender.ts'
import { ours } from '../ours.ts'

const NOW = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"

interface Opened {
  readonly place: string
  readonly db: Sqlite.Database
  readonly outbox: SqliteBetterSqlite3Outbox<Sqlite.Database>
  close(): Promise<void>
}

async function open({ place, onCall }: OpenOptions): Promise<Opened> {
  const folder = place ?? mkdtempSync(join(tmpdir(), 'outbox-bench-'))
  const db = new Sqlite(join(folder, 'bench.db'), { timeout: 0, ...(onCall && { verbose: onCall }) })
  db.pragma('journal_mode = WAL')
  db.pragma('synchronous = FULL')
  const outbox = new SqliteBetterSqlite3Outbox(db, { logger: false })
  await outbox.initialize()
  db.exec('CREATE TABLE IF NOT EXISTS business (n INTEGER)')
  return {
    place: folder,
    db,
    outbox,
    async close() {
      db.close()
      if (place === undefined) rmSync(folder, { recursive: true })
    },
  }
}

function byHand({ place, db, close }: Opened): Contender {
  const begin = db.prepare('BEGIN IMMEDIATE')
  const commit = db.prepare('COMMIT')
  const business = db.prepare('INSERT INTO business VALUES (1)')
  const insert = db.prepare(
    `INSERT INTO outbox_events (id, type, body, headers, created_at, visible_at) VALUES (?, 'noop', ?, '{}', ${NOW}, ${NOW})`,
  )
  const emit = (payload: object): void => void insert.run(uuid(), JSON.stringify(payload))
  const put = db.prepare(`INSERT INTO saga_store (id, data, expires_at) VALUES (?, ?, ${NOW} + 604800000)`)
  const get = db.prepare(`SELECT data FROM saga_store WHERE id = ? AND expires_at > ${NOW}`).pluck()
  const count = db.prepare('SELECT count(*) FROM outbox_events').pluck()
  return {
    place,
    emit,
    emitInTransaction(payload) {
      begin.run()
      business.run()
      emit(payload)
      commit.run()
    },
    emitMany: db.transaction((payloads: readonly object[]) => payloads.forEach(emit)),
    consume: async (handle) => polling(batchByHand(db, handle)),
    pending: async () => count.get() as number,
    store: { put: (id, data) => put.run(id, data), get: (id) => get.get(id) },
    close,
  }
}

/** Leases 100, hands them out, deletes those that are still leased by the same attempt. */
function batchByHand(db: Sqlite.Database, handle: Handle): () => number {
  const lease =
    db.prepare(`UPDATE outbox_events SET state = 1, attempt = attempt + 1, visible_at = ${NOW} + 30000
    WHERE seq IN (SELECT seq FROM outbox_events WHERE state < 2 AND coalesce(address, type) = 'noop' AND visible_at <= ${NOW} ORDER BY visible_at, seq LIMIT 100)
    RETURNING seq, id, type, body, headers, created_at, attempt`)
  const remove = db.prepare('DELETE FROM outbox_events WHERE seq = ? AND attempt = ? AND state = 1')
  const removeAll = db.transaction((rows: readonly Row[]) => {
    for (const { seq, attempt } of rows) remove.run(seq, attempt)
  })
  return () => {
    const rows = lease.all() as Row[]
    for (const { body, headers } of rows) {
      JSON.parse(headers)
      handle(JSON.parse(body))
    }
    removeAll(rows)
    return rows.length
  }
}

interface Row {
  readonly seq: number
  readonly attempt: number
  readonly body: string
  readonly headers: string
}

/** Rows of a table that has nothing but their order. */
function oneKey({ place, db, close }: Opened): Contender {
  db.exec('CREATE TABLE by_hand (seq INTEGER PRIMARY KEY, key TEXT, body TEXT)')
  db.exec('CREATE INDEX by_hand_key ON by_hand (key, seq)')
  const insert = db.prepare("INSERT INTO by_hand (key, body) VALUES ('key-0', ?)")
  const take = db.prepare("SELECT seq, body FROM by_hand WHERE key = 'key-0' ORDER BY seq LIMIT 100")
  const remove = db.prepare("DELETE FROM by_hand WHERE key = 'key-0' AND seq <= ?")
  const emit = (payload: object): void => void insert.run(JSON.stringify(payload))
  return {
    place,
    emit,
    emitMany: db.transaction((payloads: readonly object[]) => payloads.forEach(emit)),
    consume: async (handle) =>
      polling(async () => {
        const rows = take.all() as { seq: number; body: string }[]
        for (const { body } of rows) await handle(JSON.parse(body))
        if (rows.length > 0) remove.run(rows.at(-1)?.seq)
        return rows.length
      }),
    pending: async () => db.prepare('SELECT count(*) FROM by_hand').pluck().get() as number,
    close,
  }
}

function naively(opened: Opened): Contender {
  const { db } = opened
  const next = db.prepare('SELECT seq, body FROM outbox_events ORDER BY seq LIMIT 1')
  const remove = db.prepare('DELETE FROM outbox_events WHERE seq = ?')
  return {
    ...byHand(opened),
    consume: async (handle) =>
      polling(() => {
        const row = next.get() as Row | undefined
        if (!row) return 0
        handle(JSON.parse(row.body))
        return remove.run(row.seq).changes
      }),
  }
}

export async function sqlite(): Promise<Database> {
  const arm = armsOn(open)
  return {
    name: 'sqlite',
    floor: arm('better-sqlite3 by hand', 'floor', byHand),
    ours: {
      name: 'ours',
      role: 'ours',
      async open(options = {}) {
        const { place, db, outbox, close } = await open(options)
        const business = db.prepare('INSERT INTO business VALUES (1)')
        return ours<Sqlite.Database>({ place, outbox, write: () => business.run(), close }, options)
      },
    },
    oneKeyByHand: arm('better-sqlite3 by hand, 100 of the key', 'floor', oneKey),
    naive: { ...arm('naive: one row a time', 'other', naively), share: 0.1 },
    peers: { emit: [], drain: [], latency: [], sagas: [] },
    sizes: {
      emits: 5_000,
      drain: 40_000,
      sagas: 2_000,
      payloads: 2_000,
      openLoop: [100, 1_000],
      backlogs: [10_000, 100_000, 1_000_000],
      batch: 500,
    },
    drainTarget: 0.7,
    async describe() {
      const version = new Sqlite(':memory:').prepare('SELECT sqlite_version()').pluck().get() as string
      return { SQLite: version, journal_mode: 'WAL', synchronous: 'FULL' }
    },
  }
}
