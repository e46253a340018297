import type { NewEvent, Outcome, Settlement, When } from '../storage.ts'
import type { PostgresParameter } from './executor.ts'
import type { PostgresTables } from './schema.ts'
import { STATE, type Statement } from './statements.ts'

// What is counted from now is counted from the moment of the statement: now() is when its transaction began.
const moment = (at: string, delay: string): string =>
  `coalesce(to_timestamp(${at} / 1000.0), clock_timestamp() + ${delay} * interval '1 millisecond')`

/** A single event, the most frequent write of all. Returns its id, or nothing when it was there already. */
export function appendStatement({ events }: PostgresTables, event: NewEvent): Statement {
  const { at, delay } = due(event.due)
  return {
    text: `INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
      VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, clock_timestamp(), ${moment('$6::float8', '$7::float8')})
      ON CONFLICT (id) DO NOTHING RETURNING id AS appended`,
    parameters: [
      event.id,
      event.type,
      event.body,
      JSON.stringify(event.headers),
      event.fingerprint,
      at ?? null,
      delay ?? null,
    ],
  }
}

/**
 * A whole batch of outcomes in one statement, hence all or none of it; each outcome only if its lease is still held
 * and its fingerprinted event is new. Returns `settled` with an outcome's number, and `appended` with the id of a
 * fingerprinted event.
 */
export function writeStatement(tables: PostgresTables, outcomes: readonly Outcome[]): Statement {
  const parts = new Parts()
  addSettlements(parts, tables, outcomes)
  addAppends(parts, tables, outcomes)
  addPuts(parts, tables, outcomes)
  addRemoves(parts, tables, outcomes)
  return parts.statement()
}

/** The parts of the one statement. Its parts don't see each other's rows, only what the others return. */
class Parts {
  readonly #parts: string[] = []
  readonly #parameters: PostgresParameter[] = []
  readonly #results: string[] = []

  add(name: string, text: string): void {
    this.#parts.push(`${name} AS (${text})`)
  }

  has(name: string): boolean {
    return this.#parts.some((part) => part.startsWith(`${name} AS`))
  }

  returns(select: string): void {
    this.#results.push(select)
  }

  parameter(value: PostgresParameter): string {
    return `$${this.#parameters.push(value)}`
  }

  rows(rows: readonly object[]): string {
    return `json_to_recordset(${this.parameter(JSON.stringify(rows))}::json)`
  }

  /** That the outcome is applied, as far as it is decided by the parts added so far. */
  applied(row: string): string {
    const held = this.has('settled') ? `(NOT ${row}.settles OR ${row}.n IN (SELECT n FROM settled))` : 'true'
    if (!this.has('appended')) return held
    return `${held} AND (${row}.event IS NULL OR ${row}.event IN (SELECT id FROM appended))`
  }

  statement(): Statement {
    const results = this.#results.length > 0 ? this.#results : ['SELECT NULL::int AS settled WHERE false']
    const parts = this.#parts.length > 0 ? `WITH ${this.#parts.join(',\n')}\n` : ''
    return { text: parts + results.join(' UNION ALL '), parameters: this.#parameters }
  }
}

function addSettlements(parts: Parts, { events }: PostgresTables, outcomes: readonly Outcome[]): void {
  const settlements = outcomes.flatMap(({ settle }, n) => (settle ? [{ n, settle }] : []))
  const removals = settlements.filter(({ settle }) => isRemoval(settle))
  const changes = settlements.filter(({ settle }) => !isRemoval(settle))
  if (removals.length > 0) {
    parts.add(
      'removed',
      `DELETE FROM ${events} AS e
      USING ${parts.rows(removals.map(removalRow))} AS s (n int, id text, attempt int, needed int)
      WHERE e.id = s.id AND e.attempt = s.attempt AND e.state = s.needed RETURNING s.n`,
    )
  }
  if (changes.length > 0) {
    parts.add(
      'changed',
      `UPDATE ${events} AS e SET state = s.becomes, error = coalesce(s.error, e.error),
        visible_at = clock_timestamp() + s.delay * interval '1 millisecond',
        uncounted = CASE s.pardon WHEN 1 THEN e.uncounted + 1 WHEN 2 THEN e.attempt ELSE e.uncounted END,
        died_at = CASE s.becomes WHEN ${STATE.dead} THEN clock_timestamp() END
      FROM ${parts.rows(changes.map(changeRow))} AS s (n int, id text, attempt int, needed int,
        becomes int, delay float8, error text, pardon int)
      WHERE e.id = s.id AND e.attempt = s.attempt AND e.state = s.needed RETURNING s.n`,
    )
  }
  if (settlements.length === 0) return
  const names = ['removed', 'changed'].filter((name) => parts.has(name))
  parts.add('settled', names.map((name) => `SELECT n FROM ${name}`).join(' UNION ALL '))
  parts.returns('SELECT n AS settled, NULL::text AS appended FROM settled')
}

function addAppends(parts: Parts, { events }: PostgresTables, outcomes: readonly Outcome[]): void {
  const rows = outcomes.flatMap(({ settle, append }, n) =>
    append.map((event) => ({ n, settles: settle !== undefined, ...eventRow(event) })),
  )
  if (rows.length === 0) return
  const ordered = rows.map((row, place) => ({ place, ...row }))
  parts.add(
    'appended',
    `INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
      SELECT id, type, body, headers, fingerprint, clock_timestamp(), ${moment('at', 'delay')}
      FROM ${parts.rows(ordered)} AS a (place int, n int, settles bool, id text, type text, body text,
        headers text, fingerprint text, at float8, delay float8)
      WHERE ${parts.applied('a')} ORDER BY place
      ON CONFLICT (id) DO NOTHING RETURNING id, fingerprint`,
  )
  if (!rows.some(({ fingerprint }) => fingerprint)) return
  parts.returns('SELECT NULL::int AS settled, id AS appended FROM appended WHERE fingerprint IS NOT NULL')
}

function addPuts(parts: Parts, { payloads }: PostgresTables, outcomes: readonly Outcome[]): void {
  const puts = outcomes.flatMap((outcome, n) =>
    outcome.put.map((put) => ({ ...put, ...condition(outcome, n) })),
  )
  if (puts.length === 0) return
  // The bytes travel as one parameter: as many as there are would meet the protocol's limit of 65,535.
  const bytes = parts.parameter(
    puts.length === 1 && puts[0] ? puts[0].data : Buffer.concat(puts.map(({ data }) => data)),
  )
  let begins = 1
  const rows = puts.map(({ id, data, expires, ...rest }) => {
    const row = { id, ...rest, ...due(expires), begins, bytes: data.byteLength }
    begins += data.byteLength
    return row
  })
  parts.add(
    'stored',
    `INSERT INTO ${payloads} (id, data, expires_at)
      SELECT id, substring(${bytes}::bytea FROM begins FOR bytes), ${moment('at', 'delay')}
      FROM ${parts.rows(rows)} AS p (n int, settles bool, event text, id text, at float8, delay float8,
        begins int, bytes int)
      WHERE ${parts.applied('p')}
      ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at`,
  )
}

function addRemoves(parts: Parts, { payloads }: PostgresTables, outcomes: readonly Outcome[]): void {
  const rows = outcomes.flatMap((outcome, n) =>
    outcome.remove.map((id) => ({ id, ...condition(outcome, n) })),
  )
  if (rows.length === 0) return
  parts.add(
    'dropped',
    `DELETE FROM ${payloads} AS p
      USING ${parts.rows(rows)} AS r (n int, settles bool, event text, id text)
      WHERE p.id = r.id AND ${parts.applied('r')}`,
  )
}

/** What has to hold before anything else of an outcome is applied. */
function condition({ settle, append }: Outcome, n: number): object {
  return {
    n,
    settles: settle !== undefined,
    event: append.find(({ fingerprint }) => fingerprint !== null)?.id,
  }
}

function eventRow({ id, type, body, headers, fingerprint, due: when }: NewEvent) {
  return { id, type, body, headers: JSON.stringify(headers), fingerprint, ...due(when) }
}

function due(when: When): { at?: number; delay?: number } {
  return 'at' in when ? { at: when.at } : { delay: when.inMs }
}

interface Numbered {
  readonly n: number
  readonly settle: Settlement
}

function isRemoval(settle: Settlement): boolean {
  return settle.kind === 'discard' || (settle.kind === 'complete' && settle.keepMs === 0)
}

function removalRow({ n, settle: { id, attempt, kind } }: Numbered): object {
  return { n, id, attempt, needed: kind === 'discard' ? STATE.dead : STATE.leased }
}

function changeRow({ n, settle }: Numbered): object {
  const leased = { n, id: settle.id, attempt: settle.attempt, needed: STATE.leased, delay: 0 }
  switch (settle.kind) {
    case 'complete':
      return { ...leased, becomes: STATE.done, delay: settle.keepMs }
    case 'retry':
      return {
        ...leased,
        becomes: STATE.waiting,
        delay: settle.delayMs,
        error: settle.error,
        pardon: settle.counted ? 0 : 1,
      }
    case 'bury':
      return { ...leased, becomes: STATE.dead, error: settle.error }
    case 'discard':
      return { ...leased, needed: STATE.dead }
    case 'revive':
      return { ...leased, needed: STATE.dead, becomes: STATE.waiting, pardon: 2 }
  }
}
