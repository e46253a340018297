import type { Lease, NewEvent, Outcome, Settlement, When } from '../storage.ts'
import type { PostgresParameter } from './executor.ts'
import type { PostgresTables } from './schema.ts'

/** What `state` holds. A leased event whose `visible_at` has passed is due again. */
const STATE = { waiting: 0, leased: 1, done: 2, dead: 3 } as const

export interface Statement {
  readonly text: string
  readonly parameters: readonly PostgresParameter[]
}

const EVENT_COLUMNS = 'id, type, body, headers, attempt, uncounted'
const CREATED_AT = 'extract(epoch FROM created_at)::float8 * 1000 AS created_at'

// What is counted from now is counted from the moment of the statement: now() is when its transaction began.
const moment = (at: string, delay: string): string =>
  `coalesce(to_timestamp(${at} / 1000.0), clock_timestamp() + ${delay} * interval '1 millisecond')`

/** Takes due events: the oldest ones that nobody else is taking just now. */
export function leaseStatement({ events }: PostgresTables, limit: number, leaseMs: number): Statement {
  return {
    text: `WITH due AS MATERIALIZED (
        SELECT seq AS due_seq, visible_at AS due_at FROM ${events} WHERE state < 2 AND visible_at <= now()
        ORDER BY visible_at, seq LIMIT $1::int FOR UPDATE SKIP LOCKED
      ), leased AS (
        UPDATE ${events} SET state = ${STATE.leased}, attempt = attempt + 1, visible_at = now() + $2::float8 * interval '1 millisecond'
        FROM due WHERE seq = due_seq RETURNING ${EVENT_COLUMNS}, ${CREATED_AT}, due_at, seq
      ) SELECT ${EVENT_COLUMNS}, created_at FROM leased ORDER BY due_at, seq`,
    parameters: [limit, leaseMs],
  }
}

export function extendStatement(
  { events }: PostgresTables,
  leases: readonly Lease[],
  leaseMs: number,
): Statement {
  return {
    text: `UPDATE ${events} AS e SET visible_at = now() + $1::float8 * interval '1 millisecond'
      FROM json_to_recordset($2::json) AS held (id text, attempt int)
      WHERE e.id = held.id AND e.attempt = held.attempt AND state = ${STATE.leased} RETURNING e.id`,
    parameters: [leaseMs, JSON.stringify(leases)],
  }
}

/** A single event, the most frequent write of all. */
export function appendStatement({ events }: PostgresTables, event: NewEvent): Statement {
  const [at, delay] = whenParameters(event.due)
  return {
    text: `INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
      VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, clock_timestamp(), ${moment('$6::float8', '$7::float8')})
      ON CONFLICT (id) DO NOTHING RETURNING id`,
    parameters: [
      event.id,
      event.type,
      event.body,
      JSON.stringify(event.headers),
      event.fingerprint,
      at,
      delay,
    ],
  }
}

/**
 * A whole batch of outcomes in one statement, hence all or none of it, each outcome only if its lease is still held.
 * Returns `settled` with an outcome's number, and `appended` with an event's id.
 */
export function writeStatement(
  { events, payloads }: PostgresTables,
  outcomes: readonly Outcome[],
): Statement {
  const parts: string[] = []
  const parameters: PostgresParameter[] = []
  const parameter = (value: PostgresParameter): string => `$${parameters.push(value)}`
  const json = (rows: readonly unknown[]): string =>
    `json_to_recordset(${parameter(JSON.stringify(rows))}::json)`

  const settlements = outcomes.flatMap(({ settle }, n) => (settle ? [settlementRow(settle, n)] : []))
  parts.push(
    `settlement AS MATERIALIZED (SELECT * FROM ${json(settlements)} AS s
      (n int, id text, attempt int, needed int, gone bool, to_state int, delay float8, error text, pardon int))`,
    `removed AS (DELETE FROM ${events} AS e USING settlement AS s
      WHERE s.gone AND e.id = s.id AND e.attempt = s.attempt AND e.state = s.needed RETURNING s.n)`,
    `changed AS (UPDATE ${events} AS e SET state = s.to_state, error = coalesce(s.error, e.error),
        visible_at = clock_timestamp() + s.delay * interval '1 millisecond',
        uncounted = CASE s.pardon WHEN 1 THEN e.uncounted + 1 WHEN 2 THEN e.attempt ELSE e.uncounted END,
        died_at = CASE s.to_state WHEN ${STATE.dead} THEN clock_timestamp() END
      FROM settlement AS s
      WHERE NOT s.gone AND e.id = s.id AND e.attempt = s.attempt AND e.state = s.needed RETURNING s.n)`,
    'settled AS (SELECT n FROM removed UNION ALL SELECT n FROM changed)',
  )

  const appends = outcomes.flatMap(({ settle, append }, n) =>
    append.map((event) => eventRow(event, n, settle)),
  )
  if (appends.length > 0) {
    parts.push(
      `appended AS (INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
        SELECT id, type, body, headers, fingerprint, clock_timestamp(), ${moment('at', 'delay')}
        FROM ${json(appends.map((row, k) => ({ ...row, k })))} AS a (k int, n int, settles bool,
          id text, type text, body text, headers text, fingerprint text, at float8, delay float8)
        WHERE NOT settles OR n IN (SELECT n FROM settled) ORDER BY k ON CONFLICT (id) DO NOTHING RETURNING id)`,
    )
  }
  const puts = outcomes.flatMap((outcome, n) =>
    outcome.put.map(({ id, data, expires }) => {
      const [at, delay] = whenParameters(expires)
      // A payload whose event turns out to be a duplicate is not put.
      const event = outcome.append.find(({ fingerprint }) => fingerprint !== null)?.id ?? null
      const values = [
        `${n}, ${outcome.settle !== undefined}`,
        `${parameter(event)}::text, ${parameter(id)}::text, ${parameter(data)}::bytea`,
        `${parameter(at)}::float8, ${parameter(delay)}::float8`,
      ]
      return `(${values.join(', ')})`
    }),
  )
  if (puts.length > 0) {
    parts.push(
      `stored AS (INSERT INTO ${payloads} (id, data, expires_at)
        SELECT id, data, ${moment('at', 'delay')}
        FROM (VALUES ${puts.join(', ')}) AS p (n, settles, event, id, data, at, delay)
        WHERE (NOT settles OR n IN (SELECT n FROM settled))
          ${appends.length > 0 ? 'AND (event IS NULL OR event IN (SELECT id FROM appended))' : ''}
        ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at)`,
    )
  }
  const removes = outcomes.flatMap(({ settle, remove }, n) =>
    remove.map((id) => ({ n, settles: settle !== undefined, id })),
  )
  if (removes.length > 0) {
    parts.push(
      `dropped AS (DELETE FROM ${payloads} WHERE id IN (
        SELECT id FROM ${json(removes)} AS r (n int, settles bool, id text)
        WHERE NOT settles OR n IN (SELECT n FROM settled)))`,
    )
  }
  const appended = appends.length > 0 ? ' UNION ALL SELECT NULL::int, id FROM appended' : ''
  return {
    text: `WITH ${parts.join(',\n')} SELECT n AS settled, NULL::text AS appended FROM settled${appended}`,
    parameters,
  }
}

export function fingerprintStatement({ events }: PostgresTables, ids: readonly string[]): Statement {
  return {
    text: `SELECT id, fingerprint FROM ${events} WHERE id IN (SELECT value FROM json_array_elements_text($1::json))`,
    parameters: [JSON.stringify(ids)],
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
  return {
    text: `WITH events AS (
        DELETE FROM ${events} WHERE seq IN (SELECT seq FROM ${events} WHERE state = ${STATE.done} AND visible_at <= now()
          ORDER BY visible_at LIMIT $1::int FOR UPDATE SKIP LOCKED) RETURNING 1
      ), payloads AS (
        DELETE FROM ${payloads} WHERE id IN (SELECT id FROM ${payloads} WHERE expires_at <= now()
          ORDER BY expires_at LIMIT $2::int FOR UPDATE SKIP LOCKED) RETURNING 1
      ) SELECT (SELECT count(*) FROM events)::int AS events, (SELECT count(*) FROM payloads)::int AS payloads`,
    parameters: [limit, limit],
  }
}

export function deadStatement(
  { events }: PostgresTables,
  query: {
    limit: number
    ids: readonly string[] | undefined
    type: string | undefined
    diedAt: number
    seq: number
  },
): Statement {
  return {
    text: `SELECT ${EVENT_COLUMNS}, ${CREATED_AT}, error, seq::text AS seq, (extract(epoch FROM died_at) * 1000000)::float8 AS died_at
      FROM ${events}
      WHERE state = ${STATE.dead} AND (died_at, seq) > (to_timestamp($1::float8 / 1000000.0), $2::bigint)
        AND ($3::text IS NULL OR type = $3::text)
        AND ($4::json IS NULL OR id IN (SELECT json_array_elements_text($4::json)))
      ORDER BY ${events}.died_at, seq LIMIT $5::int`,
    parameters: [
      query.diedAt,
      String(query.seq),
      query.type ?? null,
      query.ids ? JSON.stringify(query.ids) : null,
      query.limit,
    ],
  }
}

export function statsStatement({ events }: PostgresTables): Statement {
  return {
    text: `SELECT
        (SELECT count(*) FROM ${events} WHERE state < 2 AND visible_at <= now())::int AS due,
        (SELECT count(*) FROM ${events} WHERE state < 2 AND state = ${STATE.leased} AND visible_at > now())::int AS leased,
        (SELECT count(*) FROM ${events} WHERE state = ${STATE.dead})::int AS dead,
        (SELECT extract(epoch FROM now() - min(visible_at))::float8 * 1000 FROM ${events}
          WHERE state < 2 AND visible_at <= now()) AS oldest`,
    parameters: [],
  }
}

function whenParameters(when: When): [number | null, number | null] {
  return 'at' in when ? [when.at, null] : [null, when.inMs]
}

function eventRow(
  { id, type, body, headers, fingerprint, due }: NewEvent,
  n: number,
  settle: Settlement | undefined,
) {
  const [at, delay] = whenParameters(due)
  return {
    n,
    settles: settle !== undefined,
    id,
    type,
    body,
    headers: JSON.stringify(headers),
    fingerprint,
    at,
    delay,
  }
}

function settlementRow(settle: Settlement, n: number): object {
  const { id, attempt } = settle
  const leased = { n, id, attempt, needed: STATE.leased, gone: false, delay: 0, pardon: 0 }
  switch (settle.kind) {
    case 'complete':
      if (settle.keepMs === 0) return { ...leased, gone: true }
      return { ...leased, to_state: STATE.done, delay: settle.keepMs }
    case 'retry':
      return {
        ...leased,
        to_state: STATE.waiting,
        delay: settle.delayMs,
        error: settle.error,
        pardon: settle.counted ? 0 : 1,
      }
    case 'bury':
      return { ...leased, to_state: STATE.dead, error: settle.error }
    case 'discard':
      return { ...leased, needed: STATE.dead, gone: true }
    case 'revive':
      return { ...leased, needed: STATE.dead, to_state: STATE.waiting, pardon: 2 }
  }
}
