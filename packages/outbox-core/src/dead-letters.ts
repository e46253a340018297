import { cursorText, parsedCursor } from './cursor.ts'
import { CLAIM_HEADER, SLIP_HEADER } from './emitting/event.ts'
import type { OutboxCore } from './emitting/outbox-core.ts'
import type { TransactionContext } from './emitting/transaction-context.ts'
import { wholeNumber } from './options.ts'
import type { DeadCursor, DeadEvent, DeadPage, DeadQuery, Headers, Outcome, Settlement } from './storage.ts'

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
  /** Set while the letter holds its key: no later event of that key is handled before it is retried or discarded. */
  readonly key?: string
  /** How many events of its key wait behind it. */
  readonly waitingBehind: number
}

export interface DeadLetterPage {
  readonly letters: readonly DeadLetter[]
  /** Set when there may be more: pass it as `after`. */
  readonly next?: string
}

/** Which dead letters: these ids, or all (of one type, when given) that were dead when the call began. */
export type DeadLetterSelection = string | readonly string[] | { readonly all: true; readonly type?: string }

const BATCH = 100

type Context = TransactionContext<unknown> | undefined

/**
 * Events that ran out of attempts: to look at, to try again, to give up. `outbox.deadLetters`. Inside
 * `outbox.transaction` (or `enlist`) each call is a part of the transaction.
 */
export class DeadLetters {
  readonly #core: OutboxCore

  constructor(core: OutboxCore) {
    this.#core = core
  }

  /**
   * One page of dead letters, oldest first.
   *
   * @param query.limit 1 to 1000 (default 100)
   * @param query.after the `next` of the page before
   * @throws ConfigurationError
   */
  list(query: { type?: string; limit?: number; after?: string } = {}): Promise<DeadLetterPage> {
    return this.#core.participate(undefined, async (context) => {
      const limit = wholeNumber('limit', query.limit ?? BATCH, 1, 1000)
      const after = query.after === undefined ? undefined : parsedCursor(query.after)
      const { events, next } = await this.#page(context, { limit, ...only(query) }, after)
      return { letters: events.map(deadLetter), ...(next !== undefined && { next: cursorText(next) }) }
    })
  }

  /**
   * Makes dead letters due again at once, with all their attempts.
   *
   * @returns how many; letters that are gone or no longer dead are not counted
   */
  retry(selection: DeadLetterSelection): Promise<number> {
    return this.#settle(selection, ({ id, attempt, key }) => ({ kind: 'revive', id, attempt, key }))
  }

  /**
   * Deletes dead letters, and the payloads their claims lead to.
   *
   * @returns how many
   */
  discard(selection: DeadLetterSelection): Promise<number> {
    return this.#settle(selection, ({ id, attempt, key }) => ({ kind: 'discard', id, attempt, key }))
  }

  #settle(selection: DeadLetterSelection, settlement: (event: DeadEvent) => Settlement): Promise<number> {
    return this.#core.participate(undefined, async (context) => {
      const all = typeof selection === 'object' && 'all' in selection
      // Whatever dies meanwhile comes after them: so many and no more were there when this began.
      const most = all ? (await this.#core.stats(context)).dead : Number.POSITIVE_INFINITY
      let settled = 0
      for (const query of queries(selection))
        settled += await this.#settlePages(context, query, most, settlement)
      return settled
    })
  }

  async #settlePages(
    context: Context,
    query: DeadQuery,
    most: number,
    settlement: (event: DeadEvent) => Settlement,
  ): Promise<number> {
    const seen = new Set<string>()
    let settled = 0
    let after: DeadCursor | undefined
    do {
      const { events, next } = await this.#page(context, query, after)
      const fresh = events.slice(0, most - seen.size)
      // One that is there again has died anew, and so has everything after it.
      const again = fresh.findIndex(({ id }) => seen.has(id))
      const taken = again === -1 ? fresh : fresh.slice(0, again)
      const outcomes = taken.map((event) => outcome(event, settlement(event)))
      const results = outcomes.length > 0 ? await this.#core.write(outcomes, context) : []
      settled += results.filter(({ status }) => status === 'applied').length
      for (const { id } of taken) seen.add(id)
      after = again === -1 && seen.size < most ? next : undefined
    } while (after !== undefined)
    return settled
  }

  #page(context: Context, query: DeadQuery, after: DeadCursor | undefined): Promise<DeadPage> {
    const { storage } = this.#core
    const from = { ...query, ...(after !== undefined && { after }) }
    return context ? context.run(() => storage.listDead(from, context.tx)) : storage.listDead(from)
  }
}

function queries(selection: DeadLetterSelection): DeadQuery[] {
  if (typeof selection === 'object' && 'all' in selection) return [{ limit: BATCH, ...only(selection) }]
  const ids = typeof selection === 'string' ? [selection] : [...new Set(selection)]
  const batches: DeadQuery[] = []
  for (let from = 0; from < ids.length; from += BATCH) {
    batches.push({ limit: BATCH, ids: ids.slice(from, from + BATCH) })
  }
  return batches
}

function only({ type }: { readonly type?: string | undefined }): { type?: string } {
  return type === undefined ? {} : { type }
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
    ...(event.key !== null && { key: event.key }),
    waitingBehind: event.waitingBehind,
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
