import {
  changeBy,
  type NewEvent,
  type Outcome,
  type PayloadRecord,
  type Settlement,
  StorageError,
  TransactionTooLargeError,
  type When,
} from 'outbox-core'
import { APPEND } from './scripts/append.ts'
import type { Script } from './scripts/script.ts'
import { WRITE } from './scripts/write.ts'

export type Argument = string | Buffer

/** How the write script is to write. */
export interface Writing {
  /** The channel that is told. @default none */
  readonly channel?: string
  /** Also when memory is full. @default false */
  readonly whenFull?: boolean
}

// Beyond 1,048,576 of them Redis 6.2 closes the connection.
const MOST_ARGUMENTS = 1_000_000
// ioredis makes one string of them. Where it is longer than V8's, it fails in the middle of a MULTI, whose first commands then
// wait for replies on the connection although they were never sent.
const MOST_CHARACTERS = 500_000_000

// As far as a Date goes, which leaves room for the sum with now.
const FARTHEST = 8_640_000_000_000_000

/**
 * The only way for a number into the arguments of a script, or of a command. Lua reads "nan" and "inf" as numbers, of
 * which Redis would find out after the first change, or never: what is sorted by them is not found again.
 *
 * @throws StorageError
 */
export function numeral(value: number): string {
  return String(checked(value))
}

function checked(value: number): number {
  if (typeof value === 'number' && Math.abs(value) <= FARTHEST) return value
  const what = typeof value === 'number' ? value : `a ${typeof value}`
  throw new StorageError(`${what} is no number of milliseconds or events; nothing was written`, {
    transient: false,
    refused: true,
  })
}

/** When a payload expires, as `SET` takes it. @throws StorageError */
export function expiryArguments(expires: When): readonly ['PX' | 'PXAT', string] {
  return 'at' in expires ? ['PXAT', moment(expires.at)] : ['PX', moment(expires.inMs)]
}

/** The script that writes outcomes, the lesser one where it can, and its arguments. @throws TransactionTooLargeError */
export function scriptFor(
  outcomes: readonly Outcome[],
  writing: Writing,
): { readonly script: Script; readonly args: Argument[] } {
  const script = outcomes.every(isOnlyAppending) ? APPEND : WRITE
  const what = script === APPEND ? appendArguments(outcomes) : writeArguments(outcomes)
  const { channel = '', whenFull = false } = writing
  const args = [channel, flag(whenFull), ...what]
  if (args.length > MOST_ARGUMENTS)
    throw new TransactionTooLargeError('arguments of a script', MOST_ARGUMENTS, args.length)
  const characters = args.reduce((sum, { length }) => sum + length, 0)
  if (characters > MOST_CHARACTERS)
    throw new TransactionTooLargeError('characters in a script', MOST_CHARACTERS, characters)
  return { script, args }
}

/** The payload that outcomes put, when they do nothing else. */
export function loneRecord([outcome, another]: readonly Outcome[]): PayloadRecord | undefined {
  if (!outcome || another || outcome.settle) return undefined
  const { append, put, remove } = outcome
  return put.length === 1 && append.length + remove.length === 0 ? put[0] : undefined
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
      flag(event.leased),
      flag(event.inPlace),
    ]),
    String(put.length),
    ...put.flatMap(payloadArguments),
    String(remove.length),
    ...remove,
  ]
}

function settlementArguments(settle: Settlement): Argument[] {
  const { from, to, inMs, error, pardon, yields } = changeBy(settle)
  const change = [from, settle.id, String(settle.attempt), to, numeral(inMs), error ?? '', pardon]
  if (settle.kind !== 'complete' || !(settle.also || settle.take)) return [...change, flag(yields)]
  const { also = [], take } = settle
  return [...change, 'run', take?.id ?? '', numeral(take?.leaseMs ?? 0), String(also.length), ...also]
}

function eventArguments({ id, type, address, key, body, headers, due }: NewEvent): Argument[] {
  const where = address === type ? '' : address
  return [id, type, body, JSON.stringify(headers), ...whenArguments(due), where, key ?? '']
}

function flag(is = false): string {
  return is ? '1' : '0'
}

function payloadArguments({ id, data, expires }: PayloadRecord): Argument[] {
  // A copy: in a MULTI the bytes are sent later, when the caller may have reused them.
  return [id, Buffer.from(data), ...whenArguments(expires)]
}

function whenArguments(when: When): [string, string] {
  return 'at' in when ? [moment(when.at), ''] : ['', numeral(when.inMs)]
}

/** Redis takes no moment before 1, and no parts of a millisecond. */
function moment(ms: number): string {
  return String(Math.max(1, Math.round(checked(ms))))
}
