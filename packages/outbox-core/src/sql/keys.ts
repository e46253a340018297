import { keyYielded } from '../settlement.ts'
import type { NewEvent, Outcome } from '../storage.ts'
import type { Parts, Row } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import { atMost, firstOfKey, isIn, STATE, type Statement } from './statements.ts'

// An event with a key has its place there as long as it has the key. The table of keys has a row for every key that has
// events: its version counts what was ever written, and whoever writes an event holds it until his commit, so that places
// are in the order of commits. What a statement sees of a key is all there is when it can lock that row at once, and
// finds the version that it sees; else somebody else has written, or is about to.

/** Those that take the place of the event that is settled. */
export function heirsOf({ settle, append }: Outcome): readonly NewEvent[] {
  return keyYielded(settle) !== undefined ? append.filter(({ key, inPlace }) => inPlace && key !== null) : []
}

/** Whether it goes to the end of its key. */
export function isEntrant(event: NewEvent, outcome: Outcome): boolean {
  return event.key !== null && !heirsOf(outcome).includes(event)
}

/** What a single event takes of its key, in the words of an INSERT that selects it: with no part where it is stored already. */
export function addSinglePlace(
  parts: Parts,
  { events, keys }: PostgresTables,
  { id, key }: { readonly id: string; readonly key: string },
): { readonly state: string; readonly key: string; readonly place: string; readonly from: string } {
  const [isKey, isId] = [`${parts.parameter(key)}::text`, `${parts.parameter(id)}::text`]
  parts.add(
    'written',
    `INSERT INTO ${keys} AS k (key, version) SELECT ${isKey}, 1 WHERE NOT EXISTS (SELECT FROM ${events} WHERE id = ${isId} OFFSET 0)
      ON CONFLICT (key) DO UPDATE SET version = k.version + 1 RETURNING key, version`,
  )
  const isSeen = `version = (SELECT b.version + 1 FROM ${keys} AS b WHERE b.key = ${isKey})`
  const isEmpty = `(SELECT tid FROM ${firstOfKey(events, isKey)} AS other) IS NULL`
  return {
    state: `CASE WHEN version = 1 OR ${isSeen} AND ${isEmpty} THEN ${STATE.waiting} ELSE ${STATE.blocked} END`,
    ...{ key: 'key', place: 'ARRAY[version]', from: 'written' },
  }
}

const HELD_COLUMNS = { n: 'int', id: 'text', event: 'text', heirs: 'int', take: 'text', take_ms: 'float8' }
const ALONG_COLUMNS = { n: 'int', id: 'text', event: 'text', keep: 'float8' }

/** Columns of a row of `entrants`: its number among those that take a place, and how many do; 0 for the end of the key. */
export const ENTRANT_COLUMNS = { key: 'text', heir: 'int', heirs: 'int' }

/** Events that are to be settled, as they are seen before that: what has left its key does not tell its place. */
export function addHeld(parts: Parts, { events }: PostgresTables, outcomes: readonly Outcome[]): void {
  const rows = outcomes.flatMap((outcome, n): Row[] => {
    const { settle, append } = outcome
    if (!settle || keyYielded(settle) === undefined) return []
    const event = append.find(({ fingerprint }) => fingerprint !== null)?.id
    const take = settle.kind === 'complete' ? settle.take : undefined
    const next = { take: take?.id, take_ms: take?.leaseMs }
    return [{ n, id: settle.id, event, heirs: heirsOf(outcome).length, ...next }]
  })
  if (rows.length === 0) return
  const along = outcomes.flatMap(({ settle, append }, n): Row[] => {
    if (settle?.kind !== 'complete') return []
    const event = append.find(({ fingerprint }) => fingerprint !== null)?.id
    return (settle.also ?? []).map((id) => ({ n, id, event, keep: settle.keepMs }))
  })
  if (along.length > 0) {
    parts.add('along', `SELECT * FROM ${parts.rows('r', ALONG_COLUMNS, along)}`, 'kept')
  }
  parts.add(
    'held',
    `SELECT h.n, h.event, h.heirs, h.take, h.take_ms, e.id, e.key, e.place FROM ${parts.rows('h', HELD_COLUMNS, rows)}
      CROSS JOIN LATERAL (SELECT id, key, place FROM ${events} WHERE id = h.id OFFSET 0) AS e WHERE e.key IS NOT NULL`,
    'kept',
  )
}

/**
 * Gives every row of `entrants` that has a key its place there, and tells whether it is `behind` another one: always when
 * the key's row was there, unless this statement sees that the key has no other event.
 */
export function addPlaces(parts: Parts, { events, keys }: PostgresTables): void {
  const settles = parts.has('held')
  if (settles) parts.add('leaving', `SELECT * FROM held AS h WHERE ${parts.applied('h', 'true')}`, 'kept')
  parts.add(
    'known',
    `SELECT id FROM ${events} WHERE id = ANY (ARRAY(SELECT id FROM entrants WHERE key IS NOT NULL))`,
    'kept',
  )
  parts.add(
    'entering',
    `SELECT nth, key, row_number() OVER (PARTITION BY key ORDER BY nth) AS turn, count(*) OVER (PARTITION BY key) AS turns
      FROM entrants AS a WHERE key IS NOT NULL AND heir = 0 AND id <> ALL (ARRAY(SELECT id FROM known)) AND ${parts.applied('a')}`,
    'kept',
  )
  parts.add(
    'written',
    `INSERT INTO ${keys} AS k (key, version) SELECT key, count(*) FROM entering GROUP BY key ORDER BY key
      ON CONFLICT (key) DO UPDATE SET version = k.version + excluded.version RETURNING key, version`,
  )
  parts.add(
    'before',
    `SELECT key, version FROM ${keys} WHERE key = ANY (ARRAY(SELECT key FROM entering))`,
    'kept',
  )
  const others = settles ? ` AND e.id <> ALL (ARRAY(SELECT id FROM leaving))${notAlong(parts)}` : ''
  parts.add(
    'occupied',
    `SELECT key FROM (SELECT DISTINCT key FROM entering) AS k
      CROSS JOIN LATERAL ${firstOfKey(events, 'k.key', others)} AS other`,
    'kept',
  )
  const inherited = settles ? ' OR e.key IN (SELECT key FROM leaving WHERE heirs > 0)' : ''
  const isAlone = 'w.version = e.turns OR coalesce(b.version = w.version - e.turns, false) AND o.key IS NULL'
  const atTheEnd = `SELECT e.nth, ARRAY[w.version - e.turns + e.turn] AS place, e.turn > 1${inherited} OR NOT (${isAlone}) AS behind
      FROM entering AS e JOIN written AS w USING (key) LEFT JOIN before AS b USING (key) LEFT JOIN occupied AS o USING (key)`
  const inPlace = `SELECT a.nth, CASE a.heirs WHEN 1 THEN l.place ELSE l.place || a.heir::bigint END, a.heir > 1
      FROM entrants AS a JOIN leaving AS l USING (n) WHERE a.heir > 0`
  parts.add('placed', settles ? `${atTheEnd} UNION ALL ${inPlace}` : atTheEnd, 'kept')
}

/** What has left its key, with what follows it. */
export function addLeaving(parts: Parts, tables: PostgresTables): void {
  if (!parts.has('held')) return
  parts.add('left_key', `SELECT * FROM held AS h WHERE ${parts.applied('h', 'true')}`, 'kept')
  if (parts.has('along')) addAlong(parts, tables)
  addFollowing(parts, tables, 'taking')
}

const notAlong = (parts: Parts): string =>
  parts.has('along') ? ' AND e.id <> ALL (ARRAY(SELECT id FROM along))' : ''

/** Completes what is `along` with events that are completed. */
function addAlong(parts: Parts, { events }: PostgresTables): void {
  const which = (condition: string): string =>
    `WHERE e.id = ANY (ARRAY(SELECT id FROM along AS h WHERE ${condition} AND ${parts.applied('h', 'true')}))
      AND ${isIn(STATE.blocked, 'e.')}`
  parts.add('removed_along', `DELETE FROM ${events} AS e ${which('keep = 0')}`)
  parts.add(
    'kept_along',
    `UPDATE ${events} AS e SET state = ${STATE.done}, key = NULL, place = NULL,
        visible_at = clock_timestamp() + (SELECT keep FROM along AS a WHERE a.id = e.id) * interval '1 millisecond'
      ${which('keep > 0')}`,
  )
}

/**
 * Lets the next event of a key be taken, and forgets a key that has none. Where others may have written what this
 * statement does not see, it says so instead of waiting for them.
 *
 * @param how `taking`: leases the next one where that is asked for
 */
export function addFollowing(parts: Parts, { events, keys }: PostgresTables, how?: 'taking'): void {
  const taken = how ? ', CASE next.id WHEN l.take THEN l.take_ms END AS take_ms' : ''
  parts.add(
    'following',
    `SELECT l.n, l.key, next.tid, next.state${taken} FROM left_key AS l
      LEFT JOIN LATERAL ${firstOfKey(events, 'l.key', ` AND e.id <> l.id${notAlong(parts)}`)} AS next ON true WHERE l.heirs = 0`,
    'kept',
  )
  const blocked = `SELECT tid FROM following WHERE state = ${STATE.blocked}`
  parts.add(
    'turns',
    `UPDATE ${events} SET state = ${STATE.waiting}, visible_at = greatest(visible_at, clock_timestamp())
      WHERE ctid = ANY (ARRAY(${blocked}${how ? ' AND take_ms IS NULL' : ''}))`,
  )
  if (how) {
    parts.add(
      'taken',
      `UPDATE ${events} AS e SET state = ${STATE.leased}, attempt = e.attempt + 1,
        visible_at = clock_timestamp() + f.take_ms * interval '1 millisecond'
      FROM following AS f WHERE e.ctid = ANY (ARRAY(${blocked} AND take_ms IS NOT NULL)) AND f.tid = e.ctid`,
    )
  }
  const entered = parts.has('written')
  const others = entered ? ' AND key <> ALL (ARRAY(SELECT key FROM written))' : ''
  parts.add(
    'empty',
    `SELECT key, version FROM ${keys} WHERE key = ANY (ARRAY(SELECT key FROM following WHERE tid IS NULL${others}))`,
    'kept',
  )
  addForgotten(parts, keys, 'empty')
  const isFirst = ' UNION ALL SELECT key FROM entering JOIN placed USING (nth) WHERE NOT behind'
  parts.returns(
    { settled: 'n', unsure: '1' },
    `following WHERE tid IS NULL AND key <> ALL (ARRAY(SELECT key FROM forgotten${entered ? isFirst : ''}))`,
  )
}

/** Deletes rows of keys that nobody else writes in or has written in, of those that have no event. */
function addForgotten(parts: Parts, keys: string, empty: string): void {
  parts.add('reached', reached(keys, empty), 'kept')
  parts.add(
    'forgotten',
    `DELETE FROM ${keys} WHERE ctid = ANY (ARRAY(SELECT tid FROM reached JOIN ${empty} USING (key, version)))
      RETURNING key`,
  )
}

const reached = (keys: string, of: string): string =>
  `SELECT key, version, ctid AS tid FROM ${keys} WHERE key = ANY (ARRAY(SELECT key FROM ${of})) FOR UPDATE SKIP LOCKED`

/**
 * Looks at keys, or at so many of the table after one of them: lets the first event be taken where nothing holds it up,
 * and forgets keys without any. Keys that somebody writes in are `busy`; those where nothing is to be done are not locked.
 */
export function advanceStatement(
  { events, keys }: PostgresTables,
  which: { readonly keys: readonly string[] } | { readonly after: string; readonly limit: number },
): Statement {
  const asked =
    'keys' in which
      ? 'key = ANY (ARRAY(SELECT json_array_elements_text($1::json)))'
      : `key > $1::text ORDER BY key ${atMost('$2')}`
  return {
    text: `WITH asked AS MATERIALIZED (SELECT key, version FROM ${keys} WHERE ${asked}),
      firsts AS MATERIALIZED (
        SELECT a.key, a.version, first.tid AS event, first.state FROM asked AS a
        LEFT JOIN LATERAL ${firstOfKey(events, 'a.key')} AS first ON true
      ), stuck AS MATERIALIZED (SELECT * FROM firsts WHERE event IS NULL OR state = ${STATE.blocked}),
      reached AS MATERIALIZED (${reached(keys, 'stuck')}),
      sure AS MATERIALIZED (SELECT key, event, tid FROM stuck JOIN reached USING (key, version)),
      turns AS (
        UPDATE ${events} SET state = ${STATE.waiting}, visible_at = greatest(visible_at, clock_timestamp())
        WHERE ctid = ANY (ARRAY(SELECT event FROM sure WHERE event IS NOT NULL)) RETURNING 1
      ), forgotten AS (DELETE FROM ${keys} WHERE ctid = ANY (ARRAY(SELECT tid FROM sure WHERE event IS NULL)))
      SELECT (SELECT count(*) FROM turns)::int AS events, (SELECT count(*) FROM asked)::int AS looked,
        (SELECT max(key) FROM asked) AS last, (SELECT coalesce(json_agg(key), '[]') FROM stuck
          WHERE key <> ALL (ARRAY(SELECT key FROM sure)))::text AS busy`,
    parameters: 'keys' in which ? [JSON.stringify(which.keys)] : [which.after, which.limit],
  }
}
