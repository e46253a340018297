import { changeBy, keyYielded } from '../settlement.ts'
import type { NewEvent, Outcome, PayloadRecord, Settlement } from '../storage.ts'
import { addAnnouncement, isFingerprinted, ownAddress } from './append.ts'
import { addFollowing, heirsOf, isEntrant } from './keys.ts'
import { moment } from './moments.ts'
import { Parts } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import { isIn, STATE, type Statement } from './statements.ts'

/**
 * Whether an outcome has at most one of everything, forgets the event it completes, and appends none that may be there
 * already, nor one to the end of a key: all steps of sagas do, and what is written with a claim.
 */
export function isSingle(outcome: Outcome): boolean {
  const { settle, append, put, remove } = outcome
  const change = settle && changeBy(settle)
  const isAlone = settle?.kind !== 'complete' || !(settle.also?.length || settle.take)
  const forgets = !change || (change.from === 'leased' && change.to === 'deleted' && isAlone)
  const few = append.length <= 1 && put.length <= 1 && remove.length <= 1
  return forgets && few && !append.some((event) => isFingerprinted(event) || isEntrant(event, outcome))
}

/**
 * A single outcome: the same as in a batch, for half the server's time, since it joins with no rows that only the
 * statement has. Returns `settled` when the lease was held; else nothing was written.
 */
export function singleStatement(tables: PostgresTables, outcome: Outcome, announce: boolean): Statement {
  const parts = new Parts()
  const { settle, append, put, remove } = outcome
  const keyed = keyYielded(settle) !== undefined
  const [heir] = heirsOf(outcome)
  if (settle) addRemoval(parts, tables, settle, keyed)
  for (const event of append) addAppend(parts, tables, event, event === heir)
  for (const record of put) addPut(parts, tables, record)
  for (const id of remove) addDrop(parts, tables, id)
  if (keyed && !heir) {
    parts.add('left_key', 'SELECT settled AS n, id, key, 0 AS heirs FROM removed WHERE key IS NOT NULL')
    addFollowing(parts, tables)
  }
  if (announce) addAnnouncement(parts, tables.channel)
  return parts.statement()
}

function addRemoval(
  parts: Parts,
  { events }: PostgresTables,
  { id, attempt }: Settlement,
  keyed: boolean,
): void {
  parts.add(
    'removed',
    `DELETE FROM ${events} WHERE id = ${parts.parameter(id)}::text AND attempt = ${parts.parameter(attempt)}::int
      AND ${isIn(STATE.leased)} RETURNING 0 AS settled${keyed ? ', id, key, place' : ''}`,
  )
  parts.returns({ settled: 'settled' }, 'removed')
}

function addAppend(parts: Parts, { events }: PostgresTables, event: NewEvent, isHeir: boolean): void {
  const { id, type, body, headers, leased } = event
  const address = ownAddress(event)
  const texts = [id, type, body, JSON.stringify(headers), ...address].map(
    (value) => `${parts.parameter(value)}::text`,
  )
  parts.add(
    'appended',
    `INSERT INTO ${events} (id, type, body, headers, ${address.length > 0 ? 'address, ' : ''}state, attempt, created_at, visible_at${isHeir ? ', key, place' : ''})
      SELECT ${texts.join(', ')}, ${leased ? STATE.leased : STATE.waiting}, ${leased ? 1 : 0}, clock_timestamp(),
        ${moment(parts, event.due)}${isHeir ? ', key, place' : ''} ${ifHeld(parts)}
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
