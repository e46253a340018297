import type { Clock } from '../clock.ts'
import type { Logger } from '../logger.ts'
import type { LeasedEvent, Outcome, StoredEvent } from '../storage.ts'
import { Attempt } from './attempt.ts'
import type { Handling } from './handling.ts'

// Others may have nothing to do meanwhile, and a process that dies has done all of it for nothing.
const LONGEST_MS = 200

/** What came of an event and of those behind it in its key. */
export interface Ran {
  /** Completes as many of them as succeeded, all or none. */
  readonly outcome: Outcome
  /** The first one's own, should the database refuse what others have brought; none where there are no others in it. */
  readonly alone?: Outcome
  /** Those behind it that are completed with it. */
  readonly also: readonly Attempt[]
  /** The one behind those that failed: settled apart, once it is leased by the other outcome. */
  readonly failed?: { readonly attempt: Attempt; readonly outcome: Outcome }
}

interface Parts {
  readonly handling: Handling
  readonly clock: Clock
  readonly logger: Logger
  readonly settings: { readonly leaseMs: number; readonly retentionMs: number }
  /** Whether nothing more is to be begun. */
  readonly stopping: () => boolean
}

/**
 * Handles what waits behind an event in its key, one after the other and each only if the one before has succeeded, under
 * the lease of the first: a key with much to do then costs no round trip for each of its events.
 */
export class KeyRun {
  readonly #parts: Parts

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** @param outcome of the first event. Never rejects. */
  async after(first: Attempt, outcome: Outcome): Promise<Ran> {
    const { clock, stopping } = this.#parts
    const until = clock.elapsed() + LONGEST_MS
    const also: Attempt[] = []
    const others: Outcome[] = []
    let failed: Ran['failed']
    for (const event of isFree(outcome) ? behind(first) : []) {
      if (first.abortReason || stopping() || clock.elapsed() >= until) break
      const attempt = this.#attempt(event, first)
      const next = await this.#parts.handling.outcome(attempt)
      if (!isFree(next)) {
        failed = { attempt, outcome: next }
        break
      }
      also.push(attempt)
      others.push(next)
    }
    const ran: Ran = { outcome: together(outcome, others), also, ...(also.length > 0 && { alone: outcome }) }
    return failed ? this.#taking(failed, ran, outcome) : ran
  }

  /** Has the one that failed leased by the write that completes those before it; given back, it is only let go on. */
  #taking(failed: NonNullable<Ran['failed']>, ran: Ran, alone: Outcome): Ran {
    const { settle } = ran.outcome
    if (settle?.kind !== 'complete' || failed.attempt.abortReason) return ran
    const take = { id: failed.attempt.id, leaseMs: this.#parts.settings.leaseMs }
    return { ...ran, outcome: { ...ran.outcome, settle: { ...settle, take } }, alone, failed }
  }

  #attempt(event: StoredEvent, first: Attempt): Attempt {
    const { clock, logger, settings } = this.#parts
    const now = clock.elapsed()
    const leased: LeasedEvent = { ...event, attempt: event.attempt + 1, leasedAt: first.databaseNow(now) }
    const attempt = new Attempt(leased, logger, now, settings.retentionMs)
    first.whenAborted((reason, options) => attempt.abort(reason, options))
    return attempt
  }
}

/** Only the first attempt: what kills its process is not to be hidden behind others. */
function behind({ leased, number }: Attempt): readonly StoredEvent[] {
  return number === 1 ? (leased.behind ?? []) : []
}

/** Whether nothing takes the place of the event. */
function isFree({ settle, append }: Outcome): boolean {
  return settle?.kind === 'complete' && append.every(({ inPlace }) => !inPlace)
}

function together(first: Outcome, others: readonly Outcome[]): Outcome {
  const { settle } = first
  if (settle?.kind !== 'complete' || others.length === 0) return first
  const all = [first, ...others]
  return {
    ...first,
    settle: { ...settle, also: others.flatMap((other) => other.settle?.id ?? []) },
    append: all.flatMap(({ append }) => append),
    put: all.flatMap(({ put }) => put),
    remove: all.flatMap(({ remove }) => remove),
  }
}
