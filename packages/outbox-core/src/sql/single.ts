import { changeBy } from '../settlement.ts'
import type { NewEvent, Outcome, PayloadRecord, Settlement } from '../storage.ts'
import { addAnnouncement, isFingerprinted } from './append.ts'
import { moment } from './moments.ts'
import { Parts } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import { isIn, STATE, type Statement } from './statements.ts'

/**
 * Whether an outcome has at most one of everything, forgets the event it completes, and appends none that may be there
 * already: all steps of sagas do, and what is written with a claim.
 */
export function isSingle(outcome: Outcome): boolean {
  const { settle, append, put, remove } = outcome
  const change = settle && changeBy(settle)
  const forgets = !change || (change.from === 'leased' && change.to === 'deleted')
  const few = append.length <= 1 && put.length <= 1 && remove.length <= 1
  return forgets && few && !append.some(isFingerprinted)
}

/**
 * A single outcome: the same as in a batch, for half the server's time, since it joins with no rows that only the
 * statement has. Returns `settled` when the lease was held; else nothing was written.
 */
export function singleStatement(tables: PostgresTables, outcome: Outcome, announce: boolean): Statement {
  const parts = new Parts()
  const { settle, append, put, remove } = outcome
  if (settle) addRemoval(parts, tables, settle)
  for (const event of append) addAppend(parts, tables, event)
  for (const record of put) addPut(parts, tables, record)
  for (const id of remove) addDrop(parts, tables, id)
  if (announce) addAnnouncement(parts, tables.channel)
  return parts.statement()
}

function addRemoval(parts: Parts, { events }: PostgresTables, { id, attempt }: Settlement): void {
  parts.add(
    'removed',
    `DELETE FROM ${events} WHERE id = ${parts.parameter(id)}::text AND attempt = ${parts.parameter(attempt)}::int
      AND ${isIn(STATE.leased)} RETURNING 0 AS settled`,
  )
  parts.returns('SELECT settled, NULL::text AS appended FROM removed')
}

function addAppend(parts: Parts, { events }: PostgresTables, event: NewEvent): void {
  const { id, type, body, headers, leased } = event
  const texts = [id, type, body, JSON.stringify(headers)].map((value) => `${parts.parameter(value)}::text`)
  parts.add(
    'appended',
    `INSERT INTO ${events} (id, type, body, headers, state, attempt, created_at, visible_at)
      SELECT ${texts.join(', ')}, ${leased ? STATE.leased : STATE.waiting}, ${leased ? 1 : 0}, clock_timestamp(),
        ${moment(parts, event.due)} ${ifHeld(parts)}
      ON CONFLICT (id) DO NOTHING`,
  )
}

function addPut(parts: Parts, { payloads }: PostgresTables, { id, data, expires }: PayloadRecord): void {
  parts.add(
    'stored',
    `INSERT INTO ${payloads} (id, data, expires_at)
      SELECT ${parts.parameter(id)}::text, ${parts.parameter(data)}::bytea, ${moment(parts, expires)} ${ifHeld(parts)}
      ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at`,
  )
}

function addDrop(parts: Parts, { payloads }: PostgresTables, id: string): void {
  parts.add(
    'dropped',
    `DELETE FROM ${payloads} WHERE id = ${parts.parameter(id)}::text AND EXISTS (SELECT 1 ${ifHeld(parts)})`,
  )
}

/** A row where the event was still held, or there is none. */
function ifHeld(parts: Parts): string {
  return parts.has('removed') ? 'FROM removed' : ''
}
