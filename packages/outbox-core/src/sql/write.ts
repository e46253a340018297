import { type Change, changeBy, keyYielded } from '../settlement.ts'
import type { NewEvent, Outcome, Settlement } from '../storage.ts'
import {
  addAnnouncement,
  appendAllStatement,
  appendStatement,
  BODY_COLUMNS,
  bodyColumns,
  bodyFrom,
  isFingerprinted,
  ownAddress,
} from './append.ts'
import { BYTES_COLUMNS, Bytes } from './bytes.ts'
import { addHeld, addLeaving, addPlaces, ENTRANT_COLUMNS, heirsOf } from './keys.ts'
import { due, momentIn } from './moments.ts'
import { Parts, type Row } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import { isSingle, singleStatement } from './single.ts'
import { isIn, STATE, type Statement } from './statements.ts'

/** Writes outcomes in one statement, hence all or none: the cheapest that can. */
export function writeStatement(
  tables: PostgresTables,
  outcomes: readonly Outcome[],
  announce: boolean,
): Statement {
  if (outcomes.every(isAppend)) return appendsStatement(tables, outcomes, announce)
  const [outcome] = outcomes
  return outcome && outcomes.length === 1 && isSingle(outcome)
    ? singleStatement(tables, outcome, announce)
    : batchStatement(tables, outcomes, announce)
}

function appendsStatement(
  tables: PostgresTables,
  outcomes: readonly Outcome[],
  announce: boolean,
): Statement {
  const events = outcomes.flatMap(({ append }) => append)
  const [event] = events
  if (event && events.length === 1) return appendStatement(tables, event, announce)
  const lean = events.every(
    (each) => !isFingerprinted(each) && each.key === null && due(each.due).delay === 0,
  )
  return lean ? appendAllStatement(tables, events, announce) : batchStatement(tables, outcomes, announce)
}

function isAppend({ settle, put, remove }: Outcome): boolean {
  return !settle && put.length + remove.length === 0
}

/**
 * A whole batch of whatever outcomes; each only if its lease is still held and its fingerprinted event is new. Returns
 * `settled` with an outcome's number, and `appended` with the id of a fingerprinted event.
 */
function batchStatement(tables: PostgresTables, outcomes: readonly Outcome[], announce: boolean): Statement {
  const parts = new Parts()
  // Beside an event that may be a duplicate a settlement has to wait: until that is known, its own event is only locked.
  const waiting = outcomes.some(({ settle, append }) => settle && append.some(isFingerprinted))
  if (waiting) addLocks(parts, tables, outcomes)
  else addSettlements(parts, tables, outcomes)
  addHeld(parts, tables, outcomes)
  addAppends(parts, tables, outcomes)
  if (waiting) addSettlements(parts, tables, outcomes)
  addPuts(parts, tables, outcomes)
  addRemoves(parts, tables, outcomes)
  addLeaving(parts, tables)
  if (announce) addAnnouncement(parts, tables.channel)
  return parts.statement()
}

const HELD_COLUMNS = { n: 'int', id: 'text', attempt: 'int', needed: 'int', event: 'text' }
const PARDON = { none: 0, one: 1, all: 2 } as const

const CHANGE_COLUMNS = {
  ...HELD_COLUMNS,
  ...{ becomes: 'int', delay: 'float8', error: 'text', pardon: 'int', leaves: 'bool' },
}
const CONDITION_COLUMNS = { n: 'int', settles: 'bool', event: 'text' }
const EVENT_COLUMNS = {
  id: 'text',
  type: 'text',
  address: 'text',
  headers: 'text',
  fingerprint: 'text',
  state: 'int',
  attempt: 'int',
}
const DUE_COLUMNS = { at: 'float8', delay: 'float8' }

const held = (row: string): string => `e.attempt = ${row}.attempt AND ${isIn(`${row}.needed`, 'e.')}`

function addLocks(parts: Parts, { events }: PostgresTables, outcomes: readonly Outcome[]): void {
  const rows = settlementsOf(outcomes).map(heldRow)
  parts.add(
    'settled',
    `SELECT s.n FROM ${parts.rows('s', HELD_COLUMNS, rows)} CROSS JOIN LATERAL (
      SELECT FROM ${events} AS e WHERE e.id = s.id AND ${held('s')} FOR UPDATE) AS locked`,
  )
}

function addSettlements(parts: Parts, { events }: PostgresTables, outcomes: readonly Outcome[]): void {
  const settlements = settlementsOf(outcomes)
  const removals = settlements.filter(({ change }) => change.to === 'deleted')
  const changes = settlements.flatMap(changeRows)
  if (removals.length > 0) {
    const { table, found } = parts.lookup('removing', HELD_COLUMNS, removals.map(heldRow), 'e.id')
    parts.add(
      'removed',
      `DELETE FROM ${events} AS e USING ${table}
      WHERE ${found} AND ${held('removing')} AND ${parts.applied('removing', 'true')} RETURNING removing.n`,
    )
  }
  if (changes.length > 0) {
    const stays = (column: string) => `${column} = CASE WHEN s.leaves THEN NULL ELSE e.${column} END`
    const keys = changes.some(({ leaves }) => leaves) ? `, ${stays('key')}, ${stays('place')}` : ''
    const { table, found } = parts.lookup('s', CHANGE_COLUMNS, changes, 'e.id')
    parts.add(
      'changed',
      `UPDATE ${events} AS e SET state = s.becomes, error = coalesce(s.error, e.error),
        visible_at = clock_timestamp() + s.delay * interval '1 millisecond',
        uncounted = CASE s.pardon WHEN ${PARDON.one} THEN e.uncounted + 1 WHEN ${PARDON.all} THEN e.attempt ELSE e.uncounted END,
        died_at = CASE s.becomes WHEN ${STATE.dead} THEN clock_timestamp() END${keys}
      FROM ${table}
      WHERE ${found} AND ${held('s')} AND ${parts.applied('s', 'true')} RETURNING s.n`,
    )
  }
  if (settlements.length === 0) return
  if (!parts.has('settled')) {
    const names = ['removed', 'changed'].filter((name) => parts.has(name))
    parts.add('settled', names.map((name) => `SELECT n FROM ${name}`).join(' UNION ALL '))
  }
  parts.returns({ settled: 'n' }, 'settled')
}

function addAppends(parts: Parts, tables: PostgresTables, outcomes: readonly Outcome[]): void {
  const bytes = new Bytes()
  const keyed = outcomes.some(({ append }) => append.some(({ key }) => key !== null))
  const rows = outcomes.flatMap((outcome, n) => {
    const heirs = heirsOf(outcome)
    return outcome.append.map((event) => ({
      ...{ n, settles: outcome.settle !== undefined, ...eventRow(event, bytes) },
      ...(keyed && { key: event.key, heir: heirs.indexOf(event) + 1, heirs: heirs.length }),
    }))
  })
  if (rows.length === 0) return
  const ordered = rows.map((row, nth) => ({ nth, ...row }))
  const columns = { nth: 'int', ...CONDITION_COLUMNS, ...EVENT_COLUMNS, ...BODY_COLUMNS, ...DUE_COLUMNS }
  if (keyed) {
    const entrants = parts.rows('r', { ...columns, ...ENTRANT_COLUMNS }, ordered)
    parts.add('entrants', `SELECT * FROM ${entrants}`, 'kept')
    addPlaces(parts, tables)
  }
  const placed = {
    columns: ', key, place',
    state: `CASE WHEN p.behind THEN ${STATE.blocked} ELSE state END`,
    attempt: 'CASE WHEN p.behind THEN 0 ELSE attempt END',
    more: ', CASE WHEN p.nth IS NOT NULL THEN key END, p.place',
    from: 'entrants AS a LEFT JOIN placed AS p USING (nth)',
    where: '(a.key IS NULL OR a.heir > 0 OR p.nth IS NOT NULL) AND ',
  }
  const free = { columns: '', state: 'state', attempt: 'attempt', more: '', where: '' }
  const how = keyed ? placed : { ...free, from: parts.rows('a', columns, ordered) }
  parts.add(
    'appended',
    `INSERT INTO ${tables.events} (id, type, address, body, headers, fingerprint, state, attempt, created_at, visible_at${how.columns})
      SELECT id, type, address, ${bodyFrom(bytes, parts)}, headers, fingerprint, ${how.state}, ${how.attempt},
        clock_timestamp(), ${momentIn('at', 'delay')}${how.more}
      FROM ${how.from}
      WHERE ${how.where}${parts.applied('a')} ORDER BY nth
      ON CONFLICT (id) DO NOTHING RETURNING id, fingerprint`,
  )
  if (!rows.some(({ fingerprint }) => fingerprint)) return
  parts.returns({ appended: 'id' }, 'appended WHERE fingerprint IS NOT NULL')
}

function addPuts(parts: Parts, { payloads }: PostgresTables, outcomes: readonly Outcome[]): void {
  const puts = outcomes.flatMap((outcome, n) =>
    outcome.put.map((put) => ({ ...put, ...condition(outcome, n) })),
  )
  if (puts.length === 0) return
  const bytes = new Bytes()
  const rows = puts.map(({ id, data, expires, ...rest }) => ({
    ...{ id, ...rest, ...due(expires) },
    ...bytes.add(data),
  }))
  const columns = { ...CONDITION_COLUMNS, id: 'text', ...DUE_COLUMNS, ...BYTES_COLUMNS }
  parts.add(
    'stored',
    `INSERT INTO ${payloads} (id, data, expires_at)
      SELECT id, ${Bytes.of(parts.parameter(bytes.value))}, ${momentIn('at', 'delay')}
      FROM ${parts.rows('p', columns, rows)}
      WHERE ${parts.applied('p')}
      ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at`,
  )
}

function addRemoves(parts: Parts, { payloads }: PostgresTables, outcomes: readonly Outcome[]): void {
  const rows = outcomes.flatMap((outcome, n) =>
    outcome.remove.map((id) => ({ id, ...condition(outcome, n) })),
  )
  if (rows.length === 0) return
  const { table, found } = parts.lookup('r', { ...CONDITION_COLUMNS, id: 'text' }, rows, 'p.id')
  parts.add('dropped', `DELETE FROM ${payloads} AS p USING ${table} WHERE ${found} AND ${parts.applied('r')}`)
}

/** What has to hold before anything else of an outcome is applied. */
function condition({ settle, append }: Outcome, n: number): Row {
  return {
    n,
    settles: settle !== undefined,
    event: append.find(isFingerprinted)?.id,
  }
}

function eventRow(event: NewEvent, bytes: Bytes) {
  const { id, type, body, headers, fingerprint, leased, due: when } = event
  const state = leased ? STATE.leased : STATE.waiting
  const attempt = leased ? 1 : 0
  return {
    ...{ id, type, address: ownAddress(event)[0], headers: JSON.stringify(headers) },
    ...{ fingerprint, state, attempt },
    ...due(when),
    ...bodyColumns(body, bytes),
  }
}

interface Numbered {
  readonly n: number
  readonly settle: Settlement
  readonly change: Change
  /** The event beside it that has to be new. */
  readonly event: string | undefined
}

function settlementsOf(outcomes: readonly Outcome[]): Numbered[] {
  return outcomes.flatMap(({ settle, append }, n) =>
    settle ? [{ n, settle, change: changeBy(settle), event: append.find(isFingerprinted)?.id }] : [],
  )
}

function heldRow({ n, settle: { id, attempt }, change, event }: Numbered): Row {
  return { n, id, attempt, event, needed: STATE[change.from] }
}

function changeRows(numbered: Numbered): Row[] {
  const { to, inMs: delay, error, pardon } = numbered.change
  if (to === 'deleted') return []
  const leaves = keyYielded(numbered.settle) !== undefined || undefined
  return [{ ...heldRow(numbered), becomes: STATE[to], delay, error, pardon: PARDON[pardon], leaves }]
}
