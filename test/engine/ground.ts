import Database from 'better-sqlite3'
import { type Headers, InMemoryOutbox, type Storage } from 'outbox-core'
import { ManualClock } from 'outbox-core/testing'
import { SqliteBetterSqlite3Outbox } from 'outbox-sqlite-better-sqlite3'
import type { InMemoryStorage } from '../../packages/outbox-core/src/memory/storage.ts'

/** A database that one slip runs on, and the time of everything in it. */
export interface Ground {
  readonly storage: Storage<unknown>
  readonly clock: ManualClock
  advance(ms: number): Promise<void>
  events(): readonly Stored[]
  /** Claim ids. */
  payloads(): readonly string[]
  close(): void
}

export interface Stored {
  readonly id: string
  readonly type: string
  readonly state: 'waiting' | 'leased' | 'done' | 'dead' | 'blocked'
  readonly headers: Headers
}

export function inMemory(): Ground {
  const clock = new ManualClock()
  const storage = new InMemoryOutbox({ clock }).storage as InMemoryStorage
  return {
    storage: storage as Storage<unknown>,
    clock,
    advance: (ms) => clock.advance(ms),
    events: () => [...storage.events.values()],
    payloads: () => [...storage.payloads.keys()],
    close() {},
  }
}

const STATES = ['waiting', 'leased', 'done', 'dead', 'blocked'] as const

export async function inSqlite(): Promise<Ground> {
  const db = new Database(':memory:')
  const clock = new ManualClock(Date.now())
  // The database's clock is this one, too: what SQL calls is replaced before any statement is prepared.
  db.function('unixepoch', { varargs: true }, () => clock.now() / 1000)
  const outbox = new SqliteBetterSqlite3Outbox(db)
  await outbox.initialize()
  const all = db.prepare('SELECT id, type, state, headers FROM outbox_events')
  const claims = db.prepare('SELECT id FROM saga_store').pluck()
  return {
    storage: outbox.storage as Storage<unknown>,
    clock,
    advance: (ms) => clock.advance(ms),
    events: () =>
      (all.all() as { id: string; type: string; state: number; headers: string }[]).map((row) => ({
        ...row,
        state: STATES[row.state] ?? 'dead',
        headers: JSON.parse(row.headers) as Headers,
      })),
    payloads: () => claims.all() as string[],
    close: () => void db.close(),
  }
}
