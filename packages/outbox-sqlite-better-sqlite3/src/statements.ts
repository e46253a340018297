import { changeBy, type NewEvent, type Outcome, type Settlement, type StoredEvent } from 'outbox-core'
import type { Connection } from './connection.ts'
import type { SqliteStatement } from './database.ts'
import { whenParameters, wholeMs } from './moments.ts'
import { ADDRESS, indexesOf, inMain, NOW, STATE, type Tables } from './schema.ts'

/** An event's row. */
export interface Row extends Omit<StoredEvent, 'headers' | 'createdAt'> {
  readonly seq: number
  readonly headers: string
  readonly created_at: number
}

export interface DueRow extends Row {
  readonly visible_at: number
  readonly now: number
}

export interface DeadRow extends Row {
  readonly error: string
  readonly died_at: number
  readonly waiting_behind: number
}

// Above this, writing and reading JSON within JSON takes longer than a statement for each event.
export const JSON_AT_MOST: number = 64 * 1024

// Named one by one: a connection may be set to name columns by their tables.
const EVENT = `seq AS seq, id AS id, type AS type, ${ADDRESS} AS address, key AS key, body AS body, headers AS headers,
  created_at AS created_at, attempt AS attempt, uncounted AS uncounted`
const COLUMNS =
  'id, type, address, key, body, headers, fingerprint, state, attempt, place, created_at, visible_at'

/**
 * The text of every statement; each is prepared when it is first needed, since the tables may come later.
 *
 * SQLite plans by the statistics that ANALYZE and PRAGMA optimize have left, and those of an outbox that was nearly empty
 * make it read all of a full one. So a statement either has a single row, of which it names the key (then SQLite does not
 * ask what it costs), or it names its index.
 */
function texts(tables: Tables) {
  const [events, payloads] = [inMain(tables.events), inMain(tables.payloads)]
  const { open, done, dead, keys, expires } = indexesOf(tables)
  const by = (index: string): string => `INDEXED BY "${index}"`
  const held = `WHERE id = ? AND attempt = ? AND state = ${STATE.leased}`
  const isDead = `WHERE id = ? AND attempt = ? AND state = ${STATE.dead}`
  const DEAD = `${EVENT}, error AS error, died_at AS died_at, (
      SELECT count(*) FROM ${events} AS behind ${by(keys)} WHERE behind.key = e.key AND behind.state = ${STATE.blocked}
    ) AS waiting_behind`
  const isDueAt = `state < 2 AND ${ADDRESS} = ? AND visible_at <= ${NOW}`
  return {
    due: `SELECT ${EVENT}, visible_at AS visible_at, ${NOW} AS now FROM ${events} ${by(open)}
      WHERE ${isDueAt} AND (visible_at, seq) > (?, ?) ORDER BY visible_at, seq LIMIT ?`,
    dueAmong: `SELECT value AS address FROM json_each(?)
      WHERE EXISTS (SELECT 1 FROM ${events} ${by(open)} WHERE state < 2 AND ${ADDRESS} = value AND visible_at <= ${NOW})`,
    address: `SELECT ${ADDRESS} AS address, ${NOW} - visible_at AS oldestDueMs FROM ${events} ${by(open)}
      WHERE state < 2 AND ${ADDRESS} > ? ORDER BY ${ADDRESS}, visible_at LIMIT 1`,
    lease: `UPDATE ${events} SET state = ${STATE.leased}, attempt = attempt + 1, visible_at = ${NOW} + ?
      WHERE seq = ? AND +id = ? AND attempt = ? AND state < 2 AND visible_at <= ${NOW}`,
    extend: `UPDATE ${events} SET visible_at = ${NOW} + ? ${held}`,
    keep: `UPDATE ${events} SET visible_at = ${NOW} + ? WHERE id = ? AND state = ${STATE.done}`,
    complete: `DELETE FROM ${events} ${held}`,
    finish: `UPDATE ${events} SET state = ${STATE.done}, visible_at = ${NOW} + ?, key = NULL, place = NULL ${held}`,
    retry: `UPDATE ${events} SET state = ${STATE.waiting}, visible_at = ${NOW} + ?, error = coalesce(?, error), uncounted = uncounted + ? ${held}`,
    bury: `UPDATE ${events} SET state = ${STATE.dead}, visible_at = ${NOW}, died_at = ${NOW}, error = ? ${held}`,
    skip: `UPDATE ${events} SET state = ${STATE.dead}, visible_at = ${NOW}, died_at = ${NOW}, error = ?, key = NULL, place = NULL ${held}`,
    place: `SELECT place AS place FROM ${events} WHERE id = ?`,
    unblock: `UPDATE ${events} SET state = ${STATE.waiting}, visible_at = max(visible_at, ${NOW})
      WHERE seq = (SELECT seq FROM ${events} ${by(keys)} WHERE key = ? ORDER BY place, seq LIMIT 1) AND state = ${STATE.blocked}`,
    behind: `SELECT ${EVENT}, visible_at <= ${NOW} AS due FROM ${events} ${by(keys)} WHERE key = ? AND state = ${STATE.blocked} ORDER BY place, seq LIMIT ?`,
    completeBehind: `DELETE FROM ${events} WHERE id = ? AND key = ? AND state = ${STATE.blocked}`,
    finishBehind: `UPDATE ${events} SET state = ${STATE.done}, visible_at = ${NOW} + ?, key = NULL, place = NULL
      WHERE id = ? AND key = ? AND state = ${STATE.blocked}`,
    take: `UPDATE ${events} SET state = ${STATE.leased}, attempt = attempt + 1, visible_at = ${NOW} + ?
      WHERE id = ? AND key = ? AND state = ${STATE.waiting}`,
    last: `SELECT max(place) AS place FROM ${events} ${by(keys)} WHERE key = ?`,
    discard: `DELETE FROM ${events} ${isDead}`,
    revive: `UPDATE ${events} SET state = ${STATE.waiting}, visible_at = ${NOW}, died_at = NULL, uncounted = attempt ${isDead}`,
    isHeld: `SELECT id AS id FROM ${events} ${held}`,
    isDead: `SELECT id AS id FROM ${events} ${isDead}`,
    appendOne: `INSERT INTO ${events} (${COLUMNS})
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ${NOW}, coalesce(?, ${NOW} + ?)) ON CONFLICT (id) DO NOTHING`,
    appendMany: `INSERT INTO ${events} (${COLUMNS})
      SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, ${NOW}, coalesce(value ->> 10, ${NOW} + (value ->> 11))
      FROM json_each(?) WHERE true ORDER BY key ON CONFLICT (id) DO NOTHING RETURNING id AS id`,
    fingerprint: `SELECT fingerprint AS fingerprint FROM ${events} WHERE id = ?`,
    put: `INSERT INTO ${payloads} (id, data, expires_at) VALUES (?, ?, coalesce(?, ${NOW} + ?))
      ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at`,
    get: `SELECT data AS data FROM ${payloads} WHERE id = ? AND expires_at > ${NOW}`,
    delete: `DELETE FROM ${payloads} WHERE id = ?`,
    finished: `SELECT seq AS seq FROM ${events} ${by(done)} WHERE state = ${STATE.done} AND visible_at <= ${NOW} ORDER BY visible_at LIMIT ?`,
    purgeEvent: `DELETE FROM ${events} WHERE seq = ? AND state = ${STATE.done} AND visible_at <= ${NOW}`,
    expired: `SELECT id AS id, length(data) AS bytes FROM ${payloads} ${by(expires)} WHERE expires_at <= ${NOW} ORDER BY expires_at LIMIT ?`,
    purgePayload: `DELETE FROM ${payloads} WHERE id = ? AND expires_at <= ${NOW}`,
    dead: `SELECT ${DEAD} FROM ${events} AS e ${by(dead)}
      WHERE state = ${STATE.dead} AND (died_at, seq) > (?, ?) AND type = coalesce(?, type)
      ORDER BY died_at, seq LIMIT ?`,
    deadById: `SELECT ${DEAD} FROM ${events} AS e WHERE id = ? AND state = ${STATE.dead} AND (died_at, seq) > (?, ?) AND type = coalesce(?, type)`,
    dueAt: `SELECT count(*) AS due FROM ${events} ${by(open)} WHERE ${isDueAt}`,
    leasedAt: `SELECT count(*) AS leased FROM ${events} ${by(open)}
      WHERE state < 2 AND ${ADDRESS} = ? AND visible_at > ${NOW} AND state = ${STATE.leased}`,
    countDead: `SELECT count(*) AS dead FROM ${events} ${by(dead)} WHERE state = ${STATE.dead}`,
    countBlocked: `SELECT count(*) AS blocked FROM ${events} ${by(keys)} WHERE key IS NOT NULL AND state = ${STATE.blocked}`,
  }
}

type Name = keyof ReturnType<typeof texts>

/** The prepared statements of one outbox. */
export class Statements {
  readonly #connection: Connection
  readonly #texts: ReturnType<typeof texts>
  readonly #prepared: Partial<Record<Name, SqliteStatement>> = {}

  constructor(connection: Connection, tables: Tables) {
    this.#connection = connection
    this.#texts = texts(tables)
  }

  run(name: Name, ...parameters: unknown[]): number {
    return this.#prepare(name).run(...parameters).changes
  }

  get<Result>(name: Name, ...parameters: unknown[]): Result | undefined {
    return this.#prepare(name).get(...parameters) as Result | undefined
  }

  all<Result>(name: Name, ...parameters: unknown[]): Result[] {
    return this.#prepare(name).all(...parameters) as Result[]
  }

  /** The only column of a statement's rows. */
  column<Value>(name: Name, ...parameters: unknown[]): Value[] {
    return this.#prepare(name)
      .pluck(true)
      .all(...parameters) as Value[]
  }

  #prepare(name: Name): SqliteStatement {
    this.#prepared[name] ??= this.#connection.prepare(this.#texts[name])
    return this.#prepared[name]
  }
}

/** Where an event comes in its key, and whether it waits there. */
export interface Placed {
  readonly place: number | null
  readonly blocked: boolean
}

export const NO_PLACE: Placed = { place: null, blocked: false }

/** An event's parameters for `appendOne` and `appendMany`. */
export function eventParameters(event: NewEvent, { place, blocked }: Placed = NO_PLACE): unknown[] {
  const { id, type, address, key, body, headers, fingerprint, due, leased = false } = event
  const open = leased ? STATE.leased : STATE.waiting
  return [
    ...[id, type, address === type ? null : address, key, body, JSON.stringify(headers), fingerprint],
    ...[blocked ? STATE.blocked : open, leased ? 1 : 0, place],
    ...whenParameters(due),
  ]
}

/** The statement that settles, and its parameters. It changes one row, or none when the event is not held so. */
export function settling(settle: Settlement): [Name, ...unknown[]] {
  const { id, attempt } = settle
  const { from, to, inMs, error, pardon, yields } = changeBy(settle)
  switch (to) {
    case 'deleted':
      return [from === 'dead' ? 'discard' : 'complete', id, attempt]
    case 'done':
      return ['finish', wholeMs(inMs), id, attempt]
    case 'dead':
      return [yields ? 'skip' : 'bury', error, id, attempt]
    case 'waiting':
      if (from === 'dead') return ['revive', id, attempt]
      return ['retry', wholeMs(inMs), error, pardon === 'one' ? 1 : 0, id, attempt]
  }
}

/** The statement that finds an event as its settlement needs it to be. */
export function holding(settle: Settlement): [Name, ...unknown[]] {
  return [changeBy(settle).from === 'dead' ? 'isDead' : 'isHeld', settle.id, settle.attempt]
}

/** Whether outcomes change a single row, which needs no transaction of its own. */
export function changesOneRow(outcomes: readonly Outcome[]): boolean {
  const rows = outcomes.reduce(
    (sum, { settle, append, put, remove }) =>
      sum +
      (settle ? (typeof settle.key === 'string' ? 2 : 1) : 0) +
      append.length +
      put.length +
      remove.length,
    0,
  )
  return rows <= 1
}

export function characters(events: readonly NewEvent[]): number {
  return events.reduce((sum, { body }) => sum + body.length, 0)
}
