import { LeaseLostError, type Outcome, type OutcomeResult, StorageError } from 'outbox-core'
import { type CancellationReason, isPassingReason, isRefusedReason } from './classification.ts'
import { type Cancellation, dynamoError } from './errors.ts'
import type { EventItem } from './event-items.ts'
import type { DynamoDBTransaction } from './transaction.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

type Found = Readonly<Record<string, unknown>> | undefined

export function isUnmet({ Code }: CancellationReason): boolean {
  return Code === 'ConditionalCheckFailed'
}

/**
 * Whether it failed for nothing but the items from `first` on, which keep the order of keys: another transaction has
 * changed that since it was read.
 */
export function isOvertaken({ reasons }: Cancellation, first: number): boolean {
  const failed = [...reasons.entries()].filter(([, reason]) => !isPassingReason(reason))
  return failed.length > 0 && failed.every(([index, reason]) => index >= first && isUnmet(reason))
}

/** Why nothing came of a transaction that was overtaken again and again. */
export function overtaken({ cause }: Cancellation): StorageError {
  return new StorageError(
    'others were quicker to write in the same keys, again and again; nothing was written',
    {
      cause,
      transient: true,
    },
  )
}

/** The fingerprint in an event's item, marshalled or not. */
export function fingerprintOf(item: Found): string | null {
  const { fingerprint } = (item ?? {}) as { fingerprint?: EventItem['fingerprint'] | { S?: string } }
  return (typeof fingerprint === 'object' ? fingerprint.S : fingerprint) ?? null
}

function duplicate(item: Found): OutcomeResult {
  return { status: 'duplicate', fingerprint: fingerprintOf(item) }
}

/** What its own items' conditions make of an outcome whose transaction was cancelled. */
export function resultOf({ settle, append }: Outcome, { reasons }: Cancellation): OutcomeResult | undefined {
  if (settle && reasons[0] && isUnmet(reasons[0])) return LOST
  const at = settle ? 1 : 0
  const [taken] = reasons.slice(at, at + append.length).filter(isUnmet)
  if (!taken) return undefined
  // A generated id that is taken was taken by this very write, whose answer was lost.
  return append[0]?.fingerprint === null ? APPLIED : duplicate(taken.Item)
}

/** Why a transaction was refused: by the first of its items that was. */
export function refusal({ reasons, cause }: Cancellation, tx?: DynamoDBTransaction): Error {
  const refused = reasons.findIndex(isRefusedReason)
  const failed = refused === -1 ? reasons.findIndex((reason) => !isPassingReason(reason)) : refused
  if (failed === -1) return dynamoError(cause)
  const { Code, Message = '' } = reasons[failed] ?? {}
  const own = tx?.ownItems.length ?? 0
  const options = { cause: withoutEvents(cause, reasons, own) }
  const settled = [...(tx?.collected.settlements.values() ?? [])][failed - own]
  if (settled && Code === 'ConditionalCheckFailed') {
    return new LeaseLostError(
      `event "${settled.settle.id}" went to another worker meanwhile; nothing was written`,
      options,
    )
  }
  const what = failed < own ? 'your item' : 'item'
  return new StorageError(
    `${what} ${failed + 1} of the transaction was refused (${Code}: ${Message}); nothing was written`,
    { ...options, transient: false, refused: refused !== -1 },
  )
}

/** The SDK's error, without the events that it found: what an error says may be logged. */
function withoutEvents(cause: Error, reasons: Cancellation['reasons'], own: number): Error {
  const CancellationReasons = reasons.map(({ Item, ...reason }, index) => ({
    ...reason,
    ...(index < own && Item && { Item }),
  }))
  return Object.assign(cause, { CancellationReasons })
}
