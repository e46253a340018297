import {
  type NewEvent,
  type Outcome,
  type PayloadRecord,
  type Settlement,
  TransactionTooLargeError,
  type When,
} from 'outbox-core'
import { APPEND } from './scripts/append.ts'
import type { Script } from './scripts/script.ts'
import { WRITE } from './scripts/write.ts'

type Argument = string | Buffer

/** How the write script is to write. */
export interface Writing {
  /** The channel that is told. @default none */
  readonly channel?: string
  /** Also when memory is full. @default false */
  readonly whenFull?: boolean
}

// Beyond 1,048,576 of them Redis 6.2 closes the connection.
const MOST_ARGUMENTS = 1_000_000

/** The script that writes outcomes, the lesser one where it can, and its arguments. @throws TransactionTooLargeError */
export function scriptFor(
  outcomes: readonly Outcome[],
  writing: Writing,
): { readonly script: Script; readonly args: Argument[] } {
  const script = outcomes.every(isOnlyAppending) ? APPEND : WRITE
  const what = script === APPEND ? appendArguments(outcomes) : writeArguments(outcomes)
  const { channel = '', whenFull = false } = writing
  const args = [channel, whenFull ? '1' : '0', ...what]
  if (args.length > MOST_ARGUMENTS)
    throw new TransactionTooLargeError('arguments of a script', MOST_ARGUMENTS, args.length)
  return { script, args }
}

/** Whether an outcome only appends events of generated ids and puts payloads. */
function isOnlyAppending({ settle, append, remove }: Outcome): boolean {
  return !settle && remove.length === 0 && append.every(({ fingerprint }) => fingerprint === null)
}

function appendArguments(outcomes: readonly Outcome[]): Argument[] {
  const events = outcomes.flatMap(({ append }) => append)
  const payloads = outcomes.flatMap(({ put }) => put)
  return [
    String(events.length),
    ...events.flatMap(eventArguments),
    String(payloads.length),
    ...payloads.flatMap(payloadArguments),
  ]
}

function writeArguments(outcomes: readonly Outcome[]): Argument[] {
  return [String(outcomes.length), ...outcomes.flatMap(outcomeArguments)]
}

function outcomeArguments({ settle, append, put, remove }: Outcome): Argument[] {
  return [
    ...(settle ? settlementArguments(settle) : ['']),
    String(append.length),
    ...append.flatMap((event) => [
      ...eventArguments(event),
      event.fingerprint ?? '',
      event.leased ? '1' : '0',
    ]),
    String(put.length),
    ...put.flatMap(payloadArguments),
    String(remove.length),
    ...remove,
  ]
}

function settlementArguments(settle: Settlement): Argument[] {
  const { kind, id, attempt } = settle
  const ms = kind === 'complete' ? settle.keepMs : kind === 'retry' ? settle.delayMs : 0
  const error = kind === 'bury' || kind === 'retry' ? (settle.error ?? '') : ''
  const counted = kind === 'retry' && !settle.counted ? '0' : '1'
  return [kind, id, String(attempt), String(ms), error, counted]
}

function eventArguments({ id, type, body, headers, due }: NewEvent): Argument[] {
  return [id, type, body, JSON.stringify(headers), ...whenArguments(due)]
}

function payloadArguments({ id, data, expires }: PayloadRecord): Argument[] {
  // A copy: in a MULTI the bytes are sent later, when the caller may have reused them.
  return [id, Buffer.from(data), ...whenArguments(expires)]
}

function whenArguments(when: When): [string, string] {
  // Redis takes no moment before 1.
  return 'at' in when ? [String(Math.max(1, Math.round(when.at))), ''] : ['', String(when.inMs)]
}
