import type { NewEvent } from '../storage.ts'
import { BYTES_COLUMNS, Bytes } from './bytes.ts'
import { moment } from './moments.ts'
import { type Columns, Parts, type Row } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import type { Statement } from './statements.ts'

// Longer bodies are cheaper as bytes, shorter ones as JSON.
const LONG = 512

/** A single event, the most frequent write of all. Returns the id of a fingerprinted one that was not there already. */
export function appendStatement(
  { events, channel }: PostgresTables,
  event: NewEvent,
  announce: boolean,
): Statement {
  const parts = new Parts()
  const { id, type, body, headers, fingerprint } = event
  const texts = [id, type, body, JSON.stringify(headers), fingerprint].map(
    (value) => `${parts.parameter(value)}::text`,
  )
  // A generated id is one that no other event has: one that is there already is this one, repeated by whoever sends it.
  const mayExist = isFingerprinted(event)
  const visible = moment(parts, event.due)
  const returned = [
    ...(mayExist ? ['id AS appended'] : []),
    ...(announce ? [`pg_notify(${parts.parameter(channel)}::text, '')::text AS notice`] : []),
  ]
  return parts.alone(`INSERT INTO ${events} (id, type, body, headers, fingerprint, created_at, visible_at)
      VALUES (${texts.join(', ')}, clock_timestamp(), ${visible})
      ON CONFLICT (id) DO NOTHING ${returned.length > 0 ? `RETURNING ${returned.join(', ')}` : ''}`)
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
      FROM ${parts.rows('a', columns, rows)} ORDER BY place ON CONFLICT (id) DO NOTHING`,
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

/** Whether its id was chosen by the caller, so that it may be there already. */
export function isFingerprinted({ fingerprint }: NewEvent): boolean {
  return fingerprint !== null
}
