import { CLAIM_EXPIRES_HEADER } from '../emitting/event.ts'
import type { Lease, NewEvent, Outcome, PayloadRecord, Settlement, SettlementOf } from '../storage.ts'
import { errorFields } from '../thrown.ts'
import type { Attempt } from './attempt.ts'
import type { EmitSession } from './emit-session.ts'

const NOTHING: readonly never[] = []

/** Gives a lease back as if the attempt had not been. */
export function released(attempt: Attempt): Outcome {
  return settled(attempt, { kind: 'retry', delayMs: 0, error: null, counted: false })
}

export function retried(
  attempt: Attempt,
  error: Error,
  { delayMs, counted }: { readonly delayMs: number; readonly counted: boolean },
): Outcome {
  return settled(attempt, { kind: 'retry', delayMs, error: errorText(error), counted })
}

export function completed(attempt: Attempt, session: EmitSession): Outcome {
  const { keepMs, supersedes, routingSlipId } = attempt
  const settle: Settlement = { kind: 'complete', keepMs, ...lease(attempt) }
  const remove = supersedes === undefined ? NOTHING : [supersedes]
  return { settle, append: session.append, put: session.put, remove, routingSlipId }
}

/** @param following what is written with it */
export function buried(
  attempt: Attempt,
  error: Error | string,
  following: { readonly append: readonly NewEvent[]; readonly put: readonly PayloadRecord[] } = {
    append: [],
    put: [],
  },
): Outcome {
  const text = typeof error === 'string' ? error : errorText(error)
  return { ...settled(attempt, { kind: 'bury', error: text, skip: attempt.skips }), ...following }
}

/** What has to be put before a wait; nothing when more than half of the payload's time is left after it. */
export async function renewalIfShort(
  { stored, headers }: Attempt,
  waitMs: number,
  now: number,
): Promise<readonly PayloadRecord[]> {
  if (!stored) return []
  const isShort = Number(headers[CLAIM_EXPIRES_HEADER]) - now < waitMs + stored.ttlMs / 2
  return isShort ? stored.renew(waitMs) : []
}

type Verdict = Omit<SettlementOf<'retry'>, keyof Held> | Omit<SettlementOf<'bury'>, keyof Held>
type Held = Lease & { readonly key: string | null }

function settled(attempt: Attempt, verdict: Verdict): Outcome {
  const settle: Settlement = { ...lease(attempt), ...verdict }
  return { settle, append: [], put: [], remove: [], routingSlipId: attempt.routingSlipId }
}

function lease({ leased: { id, attempt, key } }: Attempt): Held {
  return { id, attempt, key }
}

function errorText(error: Error): string {
  const { name, code, message } = errorFields(error)
  return `${name}${code ? ` [${code}]` : ''}: ${message}`
}
