import type { NewEvent, When } from '../storage.ts'
import type { PostgresTables } from './schema.ts'
import type { Statement } from './statements.ts'

// What is counted from now is counted from the moment of the statement: now() is when its transaction began.
export const moment = (at: string, delay: string): string =>
  `coalesce(to_timestamp(${at} / 1000.0), clock_timestamp() + ${delay} * interval '1 millisecond')`

/** A single event, the most frequent write of all. Returns its id, or nothing when it was there already. */
export function appendStatement(
  { events, channel }: PostgresTables,
  event: NewEvent,
  announce: boolean,
): Statement {
  const { at, delay } = due(event.due)
  // Most are due at once: that much less for the server to plan.
  const visible = delay === 0 ? 'clock_timestamp()' : moment('$6::float8', '$7::float8')
  const moments = delay === 0 ? [] : [at ?? null, delay ?? null]
  const notice = announce ? `, pg_notify($${moments.length + 6}::text, '')::text` : ''
  return {
    text: `INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
      VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, clock_timestamp(), ${visible})
      ON CONFLICT (id) DO NOTHING RETURNING id AS appended${notice}`,
    parameters: [
      event.id,
      event.type,
      event.body,
      JSON.stringify(event.headers),
      event.fingerprint,
      ...moments,
      ...(announce ? [channel] : []),
    ],
  }
}

/** Many events without the conditions of `writeStatement`. Returns nothing. */
export function appendAllStatement(
  { events, channel }: PostgresTables,
  appended: readonly NewEvent[],
  announce: boolean,
): Statement {
  const rows = appended.map(({ id, type, body, headers }, place) => ({
    place,
    id,
    type,
    body,
    headers: JSON.stringify(headers),
  }))
  const insert = `INSERT INTO ${events} (id, type, body, headers, created_at, visible_at)
    SELECT id, type, body, headers, clock_timestamp(), clock_timestamp()
    FROM json_to_recordset($1::json) AS a (place int, id text, type text, body text, headers text)
    ORDER BY place ON CONFLICT (id) DO NOTHING`
  return {
    text: announce ? `WITH appended AS (${insert}) SELECT 1 AS sent FROM pg_notify($2::text, '')` : insert,
    parameters: [JSON.stringify(rows), ...(announce ? [channel] : [])],
  }
}

export function due(when: When): { at?: number; delay?: number } {
  return 'at' in when ? { at: when.at } : { delay: when.inMs }
}
