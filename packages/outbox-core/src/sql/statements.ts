import type { Lease, LeaseRequest } from '../storage.ts'
import type { PostgresParameter } from './executor.ts'
import { ADDRESS, type PostgresTables } from './schema.ts'

/**
 * What `state` holds. A leased event whose `visible_at` has passed is due again; a blocked one is behind another one of
 * its key.
 */
export const STATE = { waiting: 0, leased: 1, done: 2, dead: 3, blocked: 4 } as const

export interface Statement {
  readonly text: string
  readonly parameters: readonly PostgresParameter[]
}

const EVENT_COLUMNS = 'id, type, address, key, body, headers, attempt, uncounted'
/** A time or a moment as text, whatever the session and the driver make of numbers and dates. */
const microseconds = (time: string): string => `(extract(epoch FROM ${time}) * 1000000)::bigint::text`

// Columns of one word have the same name in every driver's spelling.
const CREATED = `${microseconds('created_at')} AS created`

/** Rows at the places that a part has locked. An array, because a join might read the whole table instead. */
const isAt = (part: string): string => `ctid = ANY (ARRAY(SELECT tid FROM ${part}))`

/**
 * That a row is in a state, hidden from the planner: for a row that is asked for by its id it would else read the index
 * of that state from end to end, whenever its statistics are from a time when hardly any row was in it.
 */
export const isIn = (state: string | number, of = ''): string => `(${of}state + 0) = ${state}`

/** Text of rows' ids, as JSON, to look them up by: an array, for the same reason as `isAt`. */
const isOneOf = (json: string): string => `= ANY (ARRAY(SELECT json_array_elements_text(${json}::json)))`

/**
 * At most so many, in the order of an index. The planner is not told how many: it would else sort all there are whenever
 * its statistics are from a time when there were few.
 */
export const atMost = (parameter: string): string => `LIMIT (SELECT ${parameter}::bigint)`

// More than a table can have.
const ALL = "'9223372036854775807'"

/** The first event of a key, or the first one that something more holds of. */
export const firstOfKey = (events: string, key: string, more = ''): string =>
  `(SELECT ctid AS tid, id, state FROM ${events} AS e WHERE e.key = ${key}${more} ORDER BY e.key, e.place LIMIT 1)`

/**
 * Takes due events: of each address as many of its oldest ones as its share, that nobody else is taking just now, and of
 * these the oldest. A single address is asked for as such: that much less for the server to plan.
 */
export function leaseStatement({ events }: PostgresTables, request: LeaseRequest): Statement {
  const { limit, leaseMs, addresses } = request
  const asked = addresses.map(({ address, limit: share }) => ({ address, share }))
  const [only] = addresses
  const oldest = (address: string, most: string): string =>
    `SELECT ctid AS tid, id, visible_at AS due_at, seq FROM ${events}
          WHERE state < 2 AND ${ADDRESS} = ${address} AND visible_at <= now()
          ORDER BY visible_at, seq ${most} FOR UPDATE SKIP LOCKED`
  const due =
    only && addresses.length === 1
      ? oldest('$3::text', atMost('least($1::bigint, $4::bigint)'))
      : `SELECT tid, id, due_at FROM json_to_recordset($3::json) AS a (address text, share bigint)
        CROSS JOIN LATERAL (${oldest('a.address', 'LIMIT a.share')}) AS oldest
        ORDER BY due_at, seq ${atMost('$1')}`
  const text = `WITH due AS MATERIALIZED (${due}), leased AS (
        UPDATE ${events} SET state = ${STATE.leased}, attempt = attempt + 1,
          visible_at = now() + $2::float8 * interval '1 millisecond'
        WHERE ${isAt('due')} RETURNING ${EVENT_COLUMNS}, ${CREATED}, seq
      ) SELECT ${EVENT_COLUMNS}, created, ${microseconds('now()')} AS leased FROM leased JOIN due USING (id) ORDER BY due_at, leased.seq`
  return only && addresses.length === 1
    ? { text, parameters: [limit, leaseMs, only.address, only.limit] }
    : { text, parameters: [limit, leaseMs, JSON.stringify(asked)] }
}

/**
 * What waits right behind events of keys, in order: at most so many of each, which is `first`; and whether it is due. From
 * one to the next, by index: asked for all of them, the server might read and sort the whole key.
 */
export function behindStatement({ events }: PostgresTables, ids: readonly string[], most: number): Statement {
  const next = (of: string): string =>
    `SELECT * FROM (
          SELECT ${EVENT_COLUMNS}, ${CREATED}, place, state, (visible_at <= now())::int AS due FROM ${events} AS b
          WHERE b.key = ${of}.key AND b.place > ${of}.place ORDER BY b.key, b.place LIMIT 1
        ) AS one WHERE state = ${STATE.blocked}`
  return {
    text: `WITH RECURSIVE behind AS (
        SELECT f.id AS first, 1 AS nth, next.* FROM json_array_elements_text($1::json) AS f (id)
        CROSS JOIN LATERAL (SELECT key, place FROM ${events} WHERE id = f.id OFFSET 0) AS e
        CROSS JOIN LATERAL (${next('e')}) AS next
        UNION ALL SELECT behind.first, behind.nth + 1, next.* FROM behind
        CROSS JOIN LATERAL (${next('behind')}) AS next WHERE behind.nth < $2::bigint
      ) SELECT * FROM behind ORDER BY first, nth`,
    parameters: [JSON.stringify(ids), most],
  }
}

/** The addresses of open events, each with its soonest one: from one address to the next, by index. */
export function waitingStatement({ events }: PostgresTables): Statement {
  const soonest = (which: string): string =>
    `SELECT ${ADDRESS} AS address, visible_at FROM ${events} WHERE state < 2${which}
      ORDER BY ${ADDRESS}, visible_at, seq LIMIT 1`
  return {
    text: `WITH RECURSIVE addresses AS (
        (${soonest('')}) UNION ALL
        SELECT next.address, next.visible_at FROM addresses AS a
        CROSS JOIN LATERAL (${soonest(` AND ${ADDRESS} > a.address`)}) AS next
      ) SELECT address, ${microseconds('statement_timestamp() - visible_at')} AS due FROM addresses`,
    parameters: [],
  }
}

/**
 * Returns the ids whose lease is gone. An event that somebody is just settling is left to him: waiting for it, while he
 * waits for another one that this statement has locked, would be a deadlock.
 */
export function extendStatement(
  { events }: PostgresTables,
  leases: readonly Lease[],
  leaseMs: number,
): Statement {
  // With its own lock or offset it is looked up for each lease; as a join it might be the whole table for all.
  const held = (apart: string): string => `(SELECT ctid AS tid FROM ${events} AS e
        WHERE e.id = l.id AND e.attempt = l.attempt AND ${isIn(STATE.leased, 'e.')} ${apart})`
  return {
    text: `WITH leases AS MATERIALIZED (SELECT * FROM json_to_recordset($1::json) AS l (id text, attempt int)),
      held AS MATERIALIZED (
        SELECT tid FROM leases AS l CROSS JOIN LATERAL ${held('FOR UPDATE SKIP LOCKED')} AS held
      ), extended AS (
        UPDATE ${events} SET visible_at = now() + $2::float8 * interval '1 millisecond' WHERE ${isAt('held')}
      ) SELECT id FROM leases AS l WHERE NOT EXISTS ${held('OFFSET 0')}`,
    parameters: [JSON.stringify(leases), leaseMs],
  }
}

export function fingerprintStatement({ events }: PostgresTables, ids: readonly string[]): Statement {
  return {
    text: `SELECT id, fingerprint FROM ${events} WHERE id ${isOneOf('$1')}`,
    parameters: [JSON.stringify(ids)],
  }
}

/** Changes how long a completed event stays. */
export function keepStatement({ events }: PostgresTables, id: string, keepMs: number): Statement {
  return {
    text: `UPDATE ${events} SET visible_at = now() + $2::float8 * interval '1 millisecond'
      WHERE id = $1::text AND ${isIn(STATE.done)}`,
    parameters: [id, keepMs],
  }
}

/** Bytes as text: what drivers make of bytea depends on the session, and is a third longer. */
export function payloadStatement({ payloads }: PostgresTables, id: string): Statement {
  return {
    text: `SELECT encode(data, 'base64') AS data FROM ${payloads} WHERE id = $1::text AND expires_at > clock_timestamp()`,
    parameters: [id],
  }
}

/**
 * Deletes a bounded batch of each kind, by index; of payloads, which may be large, no more once those before have so many
 * bytes together. `spared` is how many of the batch were.
 */
export function purgeStatement(
  { events, payloads }: PostgresTables,
  limit: number,
  bytes: number,
): Statement {
  return {
    text: `WITH done AS MATERIALIZED (
        SELECT ctid AS tid FROM ${events} WHERE state = ${STATE.done} AND visible_at <= now()
        ORDER BY visible_at ${atMost('$1')} FOR UPDATE SKIP LOCKED
      ), expired AS MATERIALIZED (
        SELECT ctid AS tid, expires_at, octet_length(data) AS size FROM ${payloads} WHERE expires_at <= now()
        ORDER BY expires_at ${atMost('$1')} FOR UPDATE SKIP LOCKED
      ), fitting AS MATERIALIZED (
        SELECT tid FROM (SELECT tid, size, sum(size) OVER (ORDER BY expires_at, tid) AS total FROM expired) AS summed
        WHERE total - size < $2::float8
      ), events AS (DELETE FROM ${events} WHERE ${isAt('done')} RETURNING 1),
      payloads AS (DELETE FROM ${payloads} WHERE ${isAt('fitting')} RETURNING 1)
      SELECT (SELECT count(*) FROM events)::int AS events, (SELECT count(*) FROM payloads)::int AS payloads,
        (SELECT (SELECT count(*) FROM expired) - count(*) FROM fitting)::int AS spared`,
    parameters: [limit, bytes],
  }
}

export interface DeadStatementQuery {
  readonly limit: number
  readonly ids: readonly string[] | undefined
  readonly type: string | undefined
  /** Microseconds since the epoch, and the number within them, of the last one seen. */
  readonly diedAt: number
  readonly seq: string
}

/** Dead letters in the order of their index; those of given ids by the ids. */
export function deadStatement(
  { events }: PostgresTables,
  { limit, ids, type, diedAt, seq }: DeadStatementQuery,
): Statement {
  const isAfter = "(died_at, seq) > (to_timestamp(0) + $1::bigint * interval '1 microsecond', $2::bigint)"
  const among = ids
    ? `${events} AS e WHERE id ${isOneOf('$5')} AND ${isIn(STATE.dead)} AND ${isAfter}`
    : `(SELECT * FROM ${events} WHERE state = ${STATE.dead} AND ${isAfter} ORDER BY died_at, seq ${atMost(ALL)}) AS e WHERE true`
  const behind = `(SELECT count(*) FROM (SELECT FROM ${events} AS b
        WHERE b.key = e.key AND ${isIn(STATE.blocked, 'b.')} ORDER BY b.key, b.place ${atMost(ALL)}) AS counted)::int`
  return {
    text: `SELECT ${EVENT_COLUMNS}, ${CREATED}, error, seq::text AS seq, ${microseconds('died_at')} AS died,
        CASE WHEN key IS NULL THEN 0 ELSE ${behind} END AS behind
      FROM ${among} AND ($3::text IS NULL OR type = $3::text)
      ORDER BY e.died_at, e.seq ${atMost('$4')}`,
    parameters: [diedAt, seq, type ?? null, limit, ...(ids ? [JSON.stringify(ids)] : [])],
  }
}

// Inside a transaction now() is when that began, before anything that it has written was due.
export function statsStatement({ events }: PostgresTables): Statement {
  const isDue = 'visible_at <= statement_timestamp()'
  const counted = (which: string, condition: string, order: string): string =>
    `SELECT ${which} FROM ${events} WHERE ${condition} ORDER BY ${order} ${atMost(ALL)}`
  return {
    text: `WITH addresses AS MATERIALIZED (
        SELECT address, count(*) FILTER (WHERE ${isDue}) AS due, min(visible_at) AS oldest,
          count(*) FILTER (WHERE state = ${STATE.leased} AND NOT ${isDue}) AS leased
        FROM (${counted(`${ADDRESS} AS address, visible_at, state`, 'state < 2', `${ADDRESS}, visible_at, seq`)}) AS opened
        GROUP BY address
      ) SELECT (SELECT coalesce(sum(due), 0) FROM addresses)::int AS due,
        (SELECT coalesce(sum(leased), 0) FROM addresses)::int AS leased,
        (SELECT count(*) FROM (${counted('', `state = ${STATE.dead}`, 'died_at, seq')}) AS died)::int AS dead,
        (SELECT count(*) FROM (${counted('', `key IS NOT NULL AND ${isIn(STATE.blocked)}`, 'key, place')}) AS behind)::int AS blocked,
        (SELECT coalesce(json_object_agg(address, due), '{}') FROM addresses WHERE due > 0)::text AS dueby,
        (SELECT ${microseconds('statement_timestamp() - min(oldest)')} FROM addresses WHERE due > 0) AS oldest`,
    parameters: [],
  }
}

/** Tells the listeners of other processes. */
export function announceStatement({ channel }: PostgresTables): Statement {
  return { text: "SELECT 1 AS sent FROM pg_notify($1::text, '')", parameters: [channel] }
}
