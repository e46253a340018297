import { cursorText, parsedCursor } from './cursor.ts'
import { CLAIM_HEADER, SLIP_HEADER } from './emitting/event.ts'
import { wholeNumber } from './options.ts'
import type { Outbox } from './outbox.ts'
import type { DeadCursor, DeadEvent, DeadQuery, Headers, Outcome, Settlement } from './storage.ts'

/** An event that ran out of attempts, or failed in a way that no further attempt can help. */
export interface DeadLetter {
  readonly id: string
  readonly type: string
  /** The payload; `undefined` when it is in a saga store. */
  readonly payload: unknown
  readonly headers: Headers
  /** How many attempts were made in all, over every revival. */
  readonly attempts: number
  /** Why: name, code and message of the last error. */
  readonly error: string
  readonly createdAt: Date
  readonly diedAt: Date
  /** Set when the event is a step of a saga. */
  readonly routingSlipId?: string
}

export interface DeadLetterPage {
  readonly letters: readonly DeadLetter[]
  /** Set when there may be more: pass it as `after`. */
  readonly next?: string
}

/** Which dead letters: these ids, or all (of one type, when given). */
export type DeadLetterSelection = string | readonly string[] | { readonly all: true; readonly type?: string }

const BATCH = 100

/** Events that ran out of attempts: to look at, to try again, to give up. `outbox.deadLetters`. */
export class DeadLetters {
  readonly #outbox: Outbox

  constructor(outbox: Outbox) {
    this.#outbox = outbox
  }

  /**
   * One page of dead letters, oldest first.
   *
   * @param query.limit 1 to 1000 (default 100)
   * @param query.after the `next` of the page before
   * @throws ConfigurationError
   */
  async list(query: { type?: string; limit?: number; after?: string } = {}): Promise<DeadLetterPage> {
    const limit = wholeNumber('limit', query.limit ?? BATCH, 1, 1000)
    const { type, after } = query
    const { events, next } = await this.#outbox.storage.listDead({
      limit,
      ...(type !== undefined && { type }),
      ...(after !== undefined && { after: parsedCursor(after) }),
    })
    return { letters: events.map(deadLetter), ...(next !== undefined && { next: cursorText(next) }) }
  }

  /**
   * Makes dead letters due again at once, with all their attempts.
   *
   * @returns how many; letters that are gone or no longer dead are not counted
   */
  retry(selection: DeadLetterSelection): Promise<number> {
    return this.#settle(selection, ({ id, attempt }) => ({ kind: 'revive', id, attempt }))
  }

  /**
   * Deletes dead letters, and the payloads their claims lead to.
   *
   * @returns how many
   */
  discard(selection: DeadLetterSelection): Promise<number> {
    return this.#settle(selection, ({ id, attempt }) => ({ kind: 'discard', id, attempt }))
  }

  async #settle(
    selection: DeadLetterSelection,
    settlement: (event: DeadEvent) => Settlement,
  ): Promise<number> {
    let settled = 0
    for (const query of queries(selection)) {
      let after: DeadCursor | undefined
      do {
        const page = await this.#outbox.storage.listDead({ ...query, ...(after !== undefined && { after }) })
        const outcomes = page.events.map((event) => outcome(event, settlement(event)))
        const results = outcomes.length > 0 ? await this.#outbox.write(outcomes) : []
        settled += results.filter(({ status }) => status === 'applied').length
        after = page.next
      } while (after !== undefined)
    }
    return settled
  }
}

function queries(selection: DeadLetterSelection): DeadQuery[] {
  if (typeof selection === 'object' && 'all' in selection) {
    return [{ limit: BATCH, ...(selection.type !== undefined && { type: selection.type }) }]
  }
  const ids = typeof selection === 'string' ? [selection] : [...new Set(selection)]
  const batches: DeadQuery[] = []
  for (let from = 0; from < ids.length; from += BATCH) {
    batches.push({ limit: BATCH, ids: ids.slice(from, from + BATCH) })
  }
  return batches
}

function outcome(event: DeadEvent, settle: Settlement): Outcome {
  const claimId = event.headers[CLAIM_HEADER]
  const remove = settle.kind === 'discard' && claimId !== undefined ? [claimId] : []
  return { settle, append: [], put: [], remove, routingSlipId: event.headers[SLIP_HEADER] }
}

function deadLetter(event: DeadEvent): DeadLetter {
  const slip = event.headers[SLIP_HEADER]
  return {
    id: event.id,
    type: event.type,
    payload: event.headers[CLAIM_HEADER] === undefined ? parsed(event.body) : undefined,
    headers: event.headers,
    attempts: event.attempt,
    error: event.error,
    createdAt: new Date(event.createdAt),
    diedAt: new Date(event.diedAt),
    ...(slip !== undefined && { routingSlipId: slip }),
  }
}

// A body that is not JSON may be the very reason why the letter is dead: it must not keep others from being listed.
function parsed(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    return undefined
  }
}
