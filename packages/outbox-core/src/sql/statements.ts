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
const milliseconds = (moment: string): string => `date_part('epoch', ${moment}) * 1000`
const CREATED_AT = `${milliseconds('created_at')} AS created_at`

/** Rows at the places that a part has locked. An array, because a join might read the whole table instead. */
const isAt = (part: string): string => `ctid = ANY (ARRAY(SELECT place FROM ${part}))`

/** Takes due events: the oldest ones that nobody else is taking just now. */
export function leaseStatement({ events }: PostgresTables, limit: number, leaseMs: number): Statement {
  return {
    text: `WITH due AS MATERIALIZED (
        SELECT ctid AS place, id, visible_at AS due_at FROM ${events} WHERE state < 2 AND visible_at <= now()
        ORDER BY visible_at, seq LIMIT $1::int FOR UPDATE SKIP LOCKED
      ), leased AS (
        UPDATE ${events} SET state = ${STATE.leased}, attempt = attempt + 1,
          visible_at = now() + $2::float8 * interval '1 millisecond'
        WHERE ${isAt('due')} RETURNING ${EVENT_COLUMNS}, ${CREATED_AT}, seq
      ) SELECT ${EVENT_COLUMNS}, created_at, ${milliseconds('now()')} AS leased_at FROM leased JOIN due USING (id) ORDER BY due_at, seq`,
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
  const isHeld = `e.id = l.id AND e.attempt = l.attempt AND e.state = ${STATE.leased}`
  return {
    text: `WITH leases AS MATERIALIZED (SELECT * FROM json_to_recordset($1::json) AS l (id text, attempt int)),
      held AS MATERIALIZED (
        SELECT e.ctid AS place FROM ${events} AS e JOIN leases AS l ON ${isHeld} FOR UPDATE OF e SKIP LOCKED
      ), extended AS (
        UPDATE ${events} SET visible_at = now() + $2::float8 * interval '1 millisecond' WHERE ${isAt('held')}
      ) SELECT id FROM leases AS l WHERE NOT EXISTS (SELECT FROM ${events} AS e WHERE ${isHeld})`,
    parameters: [JSON.stringify(leases), leaseMs],
  }
}

export function fingerprintStatement({ events }: PostgresTables, ids: readonly string[]): Statement {
  return {
    text: `SELECT id, fingerprint FROM ${events} WHERE id IN (SELECT value FROM json_array_elements_text($1::json))`,
    parameters: [JSON.stringify(ids)],
  }
}

/** Changes how long a completed event stays. */
export function keepStatement({ events }: PostgresTables, id: string, keepMs: number): Statement {
  return {
    text: `UPDATE ${events} SET visible_at = now() + $2::float8 * interval '1 millisecond'
      WHERE id = $1::text AND state = ${STATE.done}`,
    parameters: [id, keepMs],
  }
}

export function payloadStatement({ payloads }: PostgresTables, id: string): Statement {
  return {
    text: `SELECT data FROM ${payloads} WHERE id = $1::text AND expires_at > clock_timestamp()`,
    parameters: [id],
  }
}

/** Deletes a bounded batch of each kind, by index. */
export function purgeStatement({ events, payloads }: PostgresTables, limit: number): Statement {
  const purged = (table: string, condition: string, since: string, most: string): string =>
    `DELETE FROM ${table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM ${table} WHERE ${condition} AND ${since} <= now()
      ORDER BY ${since} LIMIT ${most}::int FOR UPDATE SKIP LOCKED)) RETURNING 1`
  return {
    text: `WITH events AS (${purged(events, `state = ${STATE.done}`, 'visible_at', '$1')}),
      payloads AS (${purged(payloads, 'true', 'expires_at', '$2')})
      SELECT (SELECT count(*) FROM events)::int AS events, (SELECT count(*) FROM payloads)::int AS payloads`,
    parameters: [limit, limit],
  }
}

export function deadStatement(
  { events }: PostgresTables,
  query: {
    limit: number
    ids: readonly string[] | undefined
    type: string | undefined
    /** Microseconds since the epoch, and the number within them, of the last one seen. */
    diedAt: number
    seq: string
  },
): Statement {
  return {
    text: `SELECT ${EVENT_COLUMNS}, ${CREATED_AT}, error, seq::text AS seq, (extract(epoch FROM died_at) * 1000000)::bigint::text AS died_at
      FROM ${events} AS e
      WHERE state = ${STATE.dead} AND (died_at, seq) > (to_timestamp(0) + $1::bigint * interval '1 microsecond', $2::bigint)
        AND ($3::text IS NULL OR type = $3::text)
        AND ($4::json IS NULL OR id IN (SELECT json_array_elements_text($4::json)))
      ORDER BY e.died_at, e.seq LIMIT $5::int`,
    parameters: [
      query.diedAt,
      query.seq,
      query.type ?? null,
      query.ids ? JSON.stringify(query.ids) : null,
      query.limit,
    ],
  }
}

// Inside a transaction now() is when that began, before anything that it has written was due.
export function statsStatement({ events }: PostgresTables): Statement {
  return {
    text: `SELECT
        (SELECT count(*) FROM ${events} WHERE state < 2 AND visible_at <= statement_timestamp())::int AS due,
        (SELECT count(*) FROM ${events} WHERE state < 2 AND state = ${STATE.leased} AND visible_at > statement_timestamp())::int AS leased,
        (SELECT count(*) FROM ${events} WHERE state = ${STATE.dead})::int AS dead,
        (SELECT extract(epoch FROM statement_timestamp() - min(visible_at))::float8 * 1000 FROM ${events}
          WHERE state < 2 AND visible_at <= statement_timestamp()) AS oldest`,
    parameters: [],
  }
}

/** Tells the listeners of other processes. */
export function announceStatement({ channel }: PostgresTables): Statement {
  return { text: "SELECT 1 AS sent FROM pg_notify($1::text, '')", parameters: [channel] }
}
