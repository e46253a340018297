import type { NewEvent } from '../storage.ts'
import { BYTES_COLUMNS, Bytes } from './bytes.ts'
import { addSinglePlace } from './keys.ts'
import { moment } from './moments.ts'
import { type Columns, Parts, type Row } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import type { Statement } from './statements.ts'

// Longer bodies are cheaper as bytes, shorter ones as JSON.
const LONG = 512

/** A single event, the most frequent write of all. Returns the id of a fingerprinted one that was not there already. */
export function appendStatement(tables: PostgresTables, event: NewEvent, announce: boolean): Statement {
  const { events, channel } = tables
  const parts = new Parts()
  const { id, type, body, headers, fingerprint, key } = event
  const address = ownAddress(event)
  const texts = [id, type, body, JSON.stringify(headers), fingerprint, ...address].map(
    (value) => `${parts.parameter(value)}::text`,
  )
  // A generated id is one that no other event has: one that is there already is this one, repeated by whoever sends it.
  const mayExist = isFingerprinted(event)
  const visible = moment(parts, event.due)
  const returned = [
    ...(mayExist ? ['id AS appended'] : []),
    ...(announce ? [`pg_notify(${parts.parameter(channel)}::text, '')::text AS notice`] : []),
  ]
  const place = key === null ? undefined : addSinglePlace(parts, tables, { id, key })
  const columns = `id, type, body, headers, fingerprint, ${address.length > 0 ? 'address, ' : ''}created_at, visible_at`
  const values = `${texts.join(', ')}, clock_timestamp(), ${visible}`
  const row = place
    ? `(${columns}, state, key, place) SELECT ${values}, ${place.state}, ${place.key}, ${place.place} FROM ${place.from}`
    : `(${columns})
      VALUES (${values})`
  return parts.alone(`INSERT INTO ${events} ${row}
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
  const rows = appended.map((event, nth) => ({
    ...{ nth, id: event.id, type: event.type, headers: JSON.stringify(event.headers) },
    ...bodyColumns(event.body, bytes),
    address: ownAddress(event)[0],
  }))
  const columns = { nth: 'int', id: 'text', type: 'text', headers: 'text', ...BODY_COLUMNS, address: 'text' }
  parts.add(
    'appended',
    `INSERT INTO ${events} (id, type, address, body, headers, created_at, visible_at)
      SELECT id, type, address, ${bodyFrom(bytes, parts)}, headers, clock_timestamp(), clock_timestamp()
      FROM ${parts.rows('a', columns, rows)} ORDER BY nth ON CONFLICT (id) DO NOTHING`,
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

/** The address of an event whose type is not its address: the column is null where it is. */
export function ownAddress({ type, address }: NewEvent): readonly string[] {
  return address === type ? [] : [address]
}

/** Tells other processes, with the statement's commit. */
export function addAnnouncement(parts: Parts, channel: string): void {
  const sent = `pg_notify(${parts.parameter(channel)}::text, '')`
  parts.returns({}, sent)
}

/** Whether its id was chosen by the caller, so that it may be there already. */
export function isFingerprinted({ fingerprint }: NewEvent): boolean {
  return fingerprint !== null
}
