import type { Lease, NewEvent, Outcome, Settlement, StoredEvent } from 'outbox-core'
import type { Connection } from './connection.ts'
import type { SqliteStatement } from './database.ts'
import { whenParameters, wholeMs } from './moments.ts'
import { NOW, STATE, type Tables } from './schema.ts'

/** An event's row. */
export interface Row extends Omit<StoredEvent, 'headers' | 'createdAt'> {
  readonly seq: number
  readonly headers: string
  readonly created_at: number
}

export interface LeasedRow extends Row {
  readonly leased_at: number
}

export interface DeadRow extends Row {
  readonly error: string
  readonly died_at: number
}

// Above this, writing and reading JSON within JSON takes longer than a statement for each event.
export const JSON_AT_MOST: number = 64 * 1024

/** How many of an event's attempts stop counting. */
const PARDON = { none: 0, one: 1, all: 2 } as const

const EVENT = 'seq, id, type, body, headers, created_at, attempt, uncounted'

/** The text of every statement; each is prepared when it is first needed, since the tables may come later. */
function texts({ events, payloads }: Tables) {
  const rows = `SELECT value ->> 0 AS id, value ->> 1 AS attempt`
  // As `settledKey` makes it.
  const key = `"${events}".attempt || ' ' || "${events}".id`
  const remove = (state: number): string => `DELETE FROM "${events}" WHERE seq IN (
      SELECT seq FROM (${rows} FROM json_each(?)) AS held JOIN "${events}" USING (id, attempt) WHERE state = ${state}
    ) RETURNING ${key}`
  return {
    due: `SELECT seq FROM "${events}" WHERE state < 2 AND visible_at <= ${NOW} ORDER BY visible_at, seq LIMIT ?`,
    lease: `UPDATE "${events}" SET state = ${STATE.leased}, attempt = attempt + 1, visible_at = ${NOW} + ?
      WHERE seq IN (SELECT value FROM json_each(?)) AND state < 2 AND visible_at <= ${NOW}
      RETURNING ${EVENT}, ${NOW} AS leased_at`,
    extend: `UPDATE "${events}" SET visible_at = ${NOW} + ? FROM (${rows} FROM json_each(?)) AS held
      WHERE "${events}".id = held.id AND "${events}".attempt = held.attempt AND state = ${STATE.leased}
      RETURNING "${events}".id`,
    keep: `UPDATE "${events}" SET visible_at = ${NOW} + ? WHERE id = ? AND state = ${STATE.done}`,
    complete: `${remove(STATE.leased)}`,
    discard: `${remove(STATE.dead)}`,
    change: `UPDATE "${events}" SET state = to_state, visible_at = ${NOW} + to_delay,
        error = coalesce(to_error, error), uncounted = CASE pardon WHEN ${PARDON.one} THEN uncounted + 1 WHEN ${PARDON.all} THEN "${events}".attempt ELSE uncounted END,
        died_at = CASE to_state WHEN ${STATE.dead} THEN ${NOW} END
      FROM (${rows}, value ->> 2 AS needed, value ->> 3 AS to_state, value ->> 4 AS to_delay, value ->> 5 AS to_error, value ->> 6 AS pardon FROM json_each(?)) AS held
      WHERE "${events}".id = held.id AND "${events}".attempt = held.attempt AND state = held.needed
      RETURNING ${key}`,
    holds: `SELECT id FROM "${events}" WHERE id = ? AND attempt = ? AND state = ?`,
    appendOne: `INSERT INTO "${events}" (id, type, body, headers, fingerprint, state, attempt, created_at, visible_at)
      VALUES (?, ?, ?, ?, ?, ?, ?, ${NOW}, coalesce(?, ${NOW} + ?)) ON CONFLICT (id) DO NOTHING`,
    appendMany: `INSERT INTO "${events}" (id, type, body, headers, fingerprint, state, attempt, created_at, visible_at)
      SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, ${NOW},
        coalesce(value ->> 7, ${NOW} + (value ->> 8))
      FROM json_each(?) WHERE true ORDER BY key ON CONFLICT (id) DO NOTHING RETURNING id`,
    fingerprint: `SELECT fingerprint FROM "${events}" WHERE id = ?`,
    put: `INSERT INTO "${payloads}" (id, data, expires_at) VALUES (?, ?, coalesce(?, ${NOW} + ?))
      ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at`,
    get: `SELECT data FROM "${payloads}" WHERE id = ? AND expires_at > ${NOW}`,
    delete: `DELETE FROM "${payloads}" WHERE id IN (SELECT value FROM json_each(?))`,
    purgeEvents: `DELETE FROM "${events}" WHERE seq IN (
      SELECT seq FROM "${events}" WHERE state = ${STATE.done} AND visible_at <= ${NOW} ORDER BY visible_at LIMIT ?)`,
    purgePayloads: `DELETE FROM "${payloads}" WHERE id IN (
      SELECT id FROM "${payloads}" WHERE expires_at <= ${NOW} ORDER BY expires_at LIMIT ?)`,
    dead: `SELECT ${EVENT}, error, died_at FROM "${events}"
      WHERE state = ${STATE.dead} AND (died_at, seq) > (?, ?) AND type = coalesce(?, type)
      ORDER BY died_at, seq LIMIT ?`,
    deadById: `SELECT ${EVENT}, error, died_at FROM "${events}"
      WHERE id IN (SELECT value FROM json_each(?)) AND state = ${STATE.dead} AND (died_at, seq) > (?, ?) AND type = coalesce(?, type)
      ORDER BY died_at, seq LIMIT ?`,
    due_stats: `SELECT count(*) AS due, ${NOW} - min(visible_at) AS oldest FROM "${events}" WHERE state < 2 AND visible_at <= ${NOW}`,
    leased_stats: `SELECT count(*) AS leased FROM "${events}" WHERE state < 2 AND state = ${STATE.leased} AND visible_at > ${NOW}`,
    dead_stats: `SELECT count(*) AS dead FROM "${events}" WHERE state = ${STATE.dead}`,
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

/** An event's parameters for `appendOne` and `appendMany`. */
export function eventParameters({
  id,
  type,
  body,
  headers,
  fingerprint,
  due,
  leased = false,
}: NewEvent): unknown[] {
  const [state, attempt] = leased ? [STATE.leased, 1] : [STATE.waiting, 0]
  return [id, type, body, JSON.stringify(headers), fingerprint, state, attempt, ...whenParameters(due)]
}

/** The statement that settles, and its row: `complete` and `discard` delete the event. */
export function settling(settle: Settlement): ['complete' | 'discard' | 'change', unknown[]] {
  const { id, attempt } = settle
  const leased = [id, attempt, STATE.leased]
  switch (settle.kind) {
    case 'complete':
      if (settle.keepMs === 0) return ['complete', held(settle)]
      return ['change', [...leased, STATE.done, wholeMs(settle.keepMs), null, PARDON.none]]
    case 'retry':
      return [
        'change',
        [
          ...leased,
          STATE.waiting,
          wholeMs(settle.delayMs),
          settle.error,
          settle.counted ? PARDON.none : PARDON.one,
        ],
      ]
    case 'bury':
      return ['change', [...leased, STATE.dead, 0, settle.error, PARDON.none]]
    case 'revive':
      return ['change', [id, attempt, STATE.dead, STATE.waiting, 0, null, PARDON.all]]
    case 'discard':
      return ['discard', held(settle)]
  }
}

/** Parameters for `holds`: what an event has to be for its settlement. */
export function holding(settle: Settlement): unknown[] {
  const dead = settle.kind === 'revive' || settle.kind === 'discard'
  return [...held(settle), dead ? STATE.dead : STATE.leased]
}

/** What a statement that settles returns: a batch may hold two leases of one event, of which only the newer one is held. */
export function settledKey({ id, attempt }: Lease): string {
  return `${attempt} ${id}`
}

/** A lease's row. */
export function held({ id, attempt }: Lease): unknown[] {
  return [id, attempt]
}

/** Whether outcomes are applied by a single statement, which needs no transaction of its own. */
export function takesOneStatement(outcomes: readonly Outcome[]): boolean {
  const settles = new Set<string>()
  let appended = 0
  let appendedCharacters = 0
  let payloads = 0
  for (const { settle, append, put, remove } of outcomes) {
    if (settle) settles.add(settling(settle)[0])
    appended += append.length
    appendedCharacters += characters(append)
    payloads += put.length + remove.length
  }
  if (settles.size > 0) return settles.size === 1 && appended + payloads === 0
  if (appended === 0) return payloads <= 1
  return payloads === 0 && (appended === 1 || appendedCharacters <= JSON_AT_MOST)
}

export function characters(events: readonly NewEvent[]): number {
  return events.reduce((sum, { body }) => sum + body.length, 0)
}
