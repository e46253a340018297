import type { Lease } from '../storage.ts'
import type { PostgresParameter } from './executor.ts'
import type { PostgresTables } from './schema.ts'

/** What `state` holds. A leased event whose `visible_at` has passed is due again. */
export const STATE = { waiting: 0, leased: 1, done: 2, dead: 3 } as const

export interface Statement {
  readonly text: string
  readonly parameters: readonly PostgresParameter[]
}

const EVENT_COLUMNS = 'id, type, body, headers, attempt, uncounted'
/** A time or a moment as text, whatever the session and the driver make of numbers and dates. */
const microseconds = (time: string): string => `(extract(epoch FROM ${time}) * 1000000)::bigint::text`

// Columns of one word have the same name in every driver's spelling.
const CREATED = `${microseconds('created_at')} AS created`

/** Rows at the places that a part has locked. An array, because a join might read the whole table instead. */
const isAt = (part: string): string => `ctid = ANY (ARRAY(SELECT place FROM ${part}))`

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
const atMost = (parameter: string): string => `LIMIT (SELECT ${parameter}::bigint)`

// More than a table can have.
const ALL = "'9223372036854775807'"

/** Takes due events: the oldest ones that nobody else is taking just now. */
export function leaseStatement({ events }: PostgresTables, limit: number, leaseMs: number): Statement {
  return {
    text: `WITH due AS MATERIALIZED (
        SELECT ctid AS place, id, visible_at AS due_at FROM ${events} WHERE state < 2 AND visible_at <= now()
        ORDER BY visible_at, seq ${atMost('$1')} FOR UPDATE SKIP LOCKED
      ), leased AS (
        UPDATE ${events} SET state = ${STATE.leased}, attempt = attempt + 1,
          visible_at = now() + $2::float8 * interval '1 millisecond'
        WHERE ${isAt('due')} RETURNING ${EVENT_COLUMNS}, ${CREATED}, seq
      ) SELECT ${EVENT_COLUMNS}, created, ${microseconds('now()')} AS leased FROM leased JOIN due USING (id) ORDER BY due_at, seq`,
    parameters: [limit, leaseMs],
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
  const held = (apart: string): string => `(SELECT ctid AS place FROM ${events} AS e
        WHERE e.id = l.id AND e.attempt = l.attempt AND ${isIn(STATE.leased, 'e.')} ${apart})`
  return {
    text: `WITH leases AS MATERIALIZED (SELECT * FROM json_to_recordset($1::json) AS l (id text, attempt int)),
      held AS MATERIALIZED (
        SELECT place FROM leases AS l CROSS JOIN LATERAL ${held('FOR UPDATE SKIP LOCKED')} AS held
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
        SELECT ctid AS place FROM ${events} WHERE state = ${STATE.done} AND visible_at <= now()
        ORDER BY visible_at ${atMost('$1')} FOR UPDATE SKIP LOCKED
      ), expired AS MATERIALIZED (
        SELECT ctid AS place, expires_at, octet_length(data) AS size FROM ${payloads} WHERE expires_at <= now()
        ORDER BY expires_at ${atMost('$1')} FOR UPDATE SKIP LOCKED
      ), fitting AS MATERIALIZED (
        SELECT place FROM (SELECT place, size, sum(size) OVER (ORDER BY expires_at, place) AS total FROM expired) AS summed
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
  return {
    text: `SELECT ${EVENT_COLUMNS}, ${CREATED}, error, seq::text AS seq, ${microseconds('died_at')} AS died
      FROM ${among} AND ($3::text IS NULL OR type = $3::text)
      ORDER BY e.died_at, e.seq ${atMost('$4')}`,
    parameters: [diedAt, seq, type ?? null, limit, ...(ids ? [JSON.stringify(ids)] : [])],
  }
}

// Inside a transaction now() is when that began, before anything that it has written was due.
export function statsStatement({ events }: PostgresTables): Statement {
  const [isOpen, isDue] = ['state < 2', 'visible_at <= statement_timestamp()']
  const count = (condition: string, order: string, only = 'true'): string =>
    `(SELECT count(*) FILTER (WHERE ${only}) FROM (
        SELECT state FROM ${events} WHERE ${condition} ORDER BY ${order} ${atMost(ALL)}) AS counted)::int`
  return {
    text: `SELECT ${count(`${isOpen} AND ${isDue}`, 'visible_at, seq')} AS due,
        ${count(`${isOpen} AND NOT ${isDue}`, 'visible_at, seq', `state = ${STATE.leased}`)} AS leased,
        ${count(`state = ${STATE.dead}`, 'died_at, seq')} AS dead,
        (SELECT ${microseconds('statement_timestamp() - visible_at')} FROM ${events}
          WHERE ${isOpen} AND ${isDue} ORDER BY visible_at, seq LIMIT 1) AS oldest`,
    parameters: [],
  }
}

/** Tells the listeners of other processes. */
export function announceStatement({ channel }: PostgresTables): Statement {
  return { text: "SELECT 1 AS sent FROM pg_notify($1::text, '')", parameters: [channel] }
}
