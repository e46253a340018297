import type { NewEvent, Outcome, PayloadRecord, Settlement, When } from '../storage.ts'
import { due } from './append.ts'
import { Parts } from './parts.ts'
import type { PostgresTables } from './schema.ts'
import { STATE, type Statement } from './statements.ts'

/** An outcome that completes an event. */
type Transition = Outcome & { readonly settle: Settlement & { readonly kind: 'complete' } }

/** Whether an outcome forgets its event, and has at most one of everything else: most do, and all steps of sagas. */
export function isTransition(outcome: Outcome): outcome is Transition {
  const { settle, append, put, remove } = outcome
  const forgets = settle?.kind === 'complete' && settle.keepMs === 0
  const few = append.length <= 1 && put.length <= 1 && remove.length <= 1
  return forgets && few && append.every(({ fingerprint }) => fingerprint === null)
}

/**
 * A single transition: the same as in a batch, for half the server's time, since it joins with no rows that only the
 * statement has. Returns `settled` when the lease was held; else nothing was written.
 */
export function transitionStatement(tables: PostgresTables, outcome: Transition): Statement {
  const parts = new Parts()
  const { id, attempt } = outcome.settle
  parts.add(
    'removed',
    `DELETE FROM ${tables.events} WHERE id = ${parts.parameter(id)}::text
      AND attempt = ${parts.parameter(attempt)}::int AND state = ${STATE.leased} RETURNING 0 AS settled`,
  )
  for (const event of outcome.append) addAppend(parts, tables, event)
  for (const record of outcome.put) addPut(parts, tables, record)
  for (const gone of outcome.remove) {
    parts.add(
      'dropped',
      `DELETE FROM ${tables.payloads} WHERE id = ${parts.parameter(gone)}::text AND EXISTS (SELECT FROM removed)`,
    )
  }
  parts.returns('SELECT settled FROM removed')
  return parts.statement()
}

function addAppend(parts: Parts, { events }: PostgresTables, event: NewEvent): void {
  const state = event.leased ? STATE.leased : STATE.waiting
  const values = [event.id, event.type, event.body, JSON.stringify(event.headers)].map(
    (value) => `${parts.parameter(value)}::text`,
  )
  parts.add(
    'appended',
    `INSERT INTO ${events} (id, type, body, headers, state, attempt, created_at, visible_at)
      SELECT ${values.join(', ')}, ${state}, ${event.leased ? 1 : 0}, clock_timestamp(), ${moment(parts, event.due)}
      FROM removed`,
  )
}

function addPut(parts: Parts, { payloads }: PostgresTables, { id, data, expires }: PayloadRecord): void {
  parts.add(
    'stored',
    `INSERT INTO ${payloads} (id, data, expires_at)
      SELECT ${parts.parameter(id)}::text, ${parts.parameter(data)}::bytea, ${moment(parts, expires)} FROM removed
      ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at`,
  )
}

function moment(parts: Parts, when: When): string {
  const { at, delay } = due(when)
  if (at !== undefined) return `to_timestamp(${parts.parameter(at)}::float8 / 1000.0)`
  return `clock_timestamp() + ${parts.parameter(delay ?? 0)}::float8 * interval '1 millisecond'`
}
