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
import { APPEND, APPEND_IN_PLACE } from './scripts/append.ts'
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

/** A script and what it is given. */
export interface Call {
  readonly script: Script
  readonly args: readonly Argument[]
  /** Whether it says what became of each outcome; otherwise all are applied. */
  readonly tells: boolean
}

/** The script that writes outcomes, the least that can, and its arguments. @throws TransactionTooLargeError */
export function callFor(outcomes: readonly Outcome[], { channel = '', whenFull = false }: Writing): Call {
  const args: Argument[] = [channel, flag(whenFull)]
  const tells = !outcomes.every(isOnlyAppending)
  if (tells) addOutcomes(args, outcomes)
  else addAppended(args, outcomes)
  if (args.length > MOST_ARGUMENTS)
    throw new TransactionTooLargeError('arguments of a script', MOST_ARGUMENTS, args.length)
  let characters = 0
  for (const { length } of args) characters += length
  if (characters > MOST_CHARACTERS)
    throw new TransactionTooLargeError('characters in a script', MOST_CHARACTERS, characters)
  return { script: tells ? WRITE : outcomes.some(hasKeys) ? APPEND_IN_PLACE : APPEND, args, tells }
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

function hasKeys({ append }: Outcome): boolean {
  return append.some(({ key }) => key !== null)
}

// Pushed one by one: a drain makes a dozen of them for every event, and arrays of arrays cost more than what is in them.
function addAppended(args: Argument[], outcomes: readonly Outcome[]): void {
  args.push(String(outcomes.reduce((sum, { append }) => sum + append.length, 0)))
  for (const { append } of outcomes) for (const event of append) addEvent(args, event)
  args.push(String(outcomes.reduce((sum, { put }) => sum + put.length, 0)))
  for (const { put } of outcomes) for (const payload of put) addPayload(args, payload)
}

function addOutcomes(args: Argument[], outcomes: readonly Outcome[]): void {
  args.push(String(outcomes.length))
  for (const { settle, append, put, remove } of outcomes) {
    if (settle) addSettlement(args, settle)
    else args.push('')
    args.push(String(append.length))
    for (const event of append) {
      addEvent(args, event)
      args.push(event.fingerprint ?? '', flag(event.leased), flag(event.inPlace))
    }
    args.push(String(put.length))
    for (const payload of put) addPayload(args, payload)
    addIds(args, remove)
  }
}

function addSettlement(args: Argument[], settle: Settlement): void {
  const { from, to, inMs, error, pardon, yields } = changeBy(settle)
  args.push(from, settle.id, String(settle.attempt), to, numeral(inMs), error ?? '', pardon)
  if (settle.kind !== 'complete' || !(settle.also || settle.take)) {
    args.push(flag(yields))
    return
  }
  const { also = [], take } = settle
  args.push('run', take?.id ?? '', numeral(take?.leaseMs ?? 0))
  addIds(args, also)
}

function addEvent(args: Argument[], { id, type, address, key, body, headers, due }: NewEvent): void {
  args.push(id, type, body, JSON.stringify(headers))
  addWhen(args, due)
  args.push(address === type ? '' : address, key ?? '')
}

function addIds(args: Argument[], ids: readonly string[]): void {
  args.push(String(ids.length))
  for (const id of ids) args.push(id)
}

function flag(is = false): string {
  return is ? '1' : '0'
}

function addPayload(args: Argument[], { id, data, expires }: PayloadRecord): void {
  // A copy: in a MULTI the bytes are sent later, when the caller may have reused them.
  args.push(id, Buffer.from(data))
  addWhen(args, expires)
}

function addWhen(args: Argument[], when: When): void {
  if ('at' in when) args.push(moment(when.at), '')
  else args.push('', numeral(when.inMs))
}

/** Redis takes no moment before 1, and no parts of a millisecond. */
function moment(ms: number): string {
  return String(Math.max(1, Math.round(checked(ms))))
}
