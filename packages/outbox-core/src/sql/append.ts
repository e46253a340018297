import type { NewEvent, When } from '../storage.ts'
import { BYTES_COLUMNS, Bytes } from './bytes.ts'
import { type Columns, Parts, type Row } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import type { Statement } from './statements.ts'

// What is counted from now is counted from the moment of the statement: now() is when its transaction began.
export const moment = (at: string, delay: string): string =>
  `coalesce(to_timestamp(${at} / 1000.0), clock_timestamp() + ${delay} * interval '1 millisecond')`

// Longer bodies are cheaper as bytes, shorter ones as JSON.
const LONG = 512

/** A single event, the most frequent write of all. Returns the id of a fingerprinted one that was not there already. */
export function appendStatement(
  { events, channel }: PostgresTables,
  event: NewEvent,
  announce: boolean,
): Statement {
  const { at, delay } = due(event.due)
  // Most are due at once, and have a generated id that no other event has: that much less for the server to do.
  const visible = delay === 0 ? 'clock_timestamp()' : moment('$6::float8', '$7::float8')
  const moments = delay === 0 ? [] : [at ?? null, delay ?? null]
  const mayExist = event.fingerprint !== null
  const returned = [
    ...(mayExist ? ['id AS appended'] : []),
    ...(announce ? [`pg_notify($${moments.length + 6}::text, '')::text AS notice`] : []),
  ]
  return {
    text: `INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
      VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, clock_timestamp(), ${visible})
      ${mayExist ? 'ON CONFLICT (id) DO NOTHING' : ''} ${returned.length > 0 ? `RETURNING ${returned.join(', ')}` : ''}`,
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

/** Many events of generated ids, without the conditions of `writeStatement`. Returns nothing. */
export function appendAllStatement(
  { events, channel }: PostgresTables,
  appended: readonly NewEvent[],
  announce: boolean,
): Statement {
  const parts = new Parts()
  const bytes = new Bytes()
  const rows = appended.map(({ id, type, body, headers }, place) => ({
    ...{ place, id, type, headers: JSON.stringify(headers) },
    ...bodyColumns(body, bytes),
  }))
  const columns = { place: 'int', id: 'text', type: 'text', headers: 'text', ...BODY_COLUMNS }
  parts.add(
    'appended',
    `INSERT INTO ${events} (id, type, body, headers, created_at, visible_at)
      SELECT id, type, ${bodyFrom(bytes, parts)}, headers, clock_timestamp(), clock_timestamp()
      FROM ${parts.rows('a', columns, rows)} ORDER BY place`,
  )
  if (announce) addAnnouncement(parts, channel)
  return parts.statement()
}

/** The columns of a row that hold a body, or where in the bytes beside it is. */
export const BODY_COLUMNS: Columns = { body: 'text', ...BYTES_COLUMNS }

export function bodyColumns(body: string, bytes: Bytes): Row {
  return body.length > LONG ? bytes.add(Buffer.from(body)) : { body }
}

/** The body of such a row. */
export function bodyFrom(bytes: Bytes, parts: Parts): string {
  if (bytes.isEmpty) return 'body'
  return `coalesce(body, convert_from(${Bytes.of(parts.parameter(bytes.value))}, 'UTF8'))`
}

/** Tells other processes, with the statement's commit. */
export function addAnnouncement(parts: Parts, channel: string): void {
  const sent = `pg_notify(${parts.parameter(channel)}::text, '')`
  parts.returns(`SELECT NULL::int AS settled, NULL::text AS appended FROM ${sent}`)
}

export function due(when: When): { at?: number; delay?: number } {
  return 'at' in when ? { at: when.at } : { delay: when.inMs }
}
