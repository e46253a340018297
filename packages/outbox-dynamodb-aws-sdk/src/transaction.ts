import { type NewEvent, type PayloadRecord, TransactionClosedError } from 'outbox-core'
import type { Turns } from './keys.ts'
import { assertSize } from './limits.ts'
import type { TransactItem } from './transact-item.ts'
import type { Settled } from './turns.ts'

/** What the outbox writes in a transaction, until it is sent. */
export interface Collected {
  readonly events: Map<string, NewEvent>
  readonly settlements: Map<string, Settled>
  /** The last word on each payload: what to put, or of how many items it is removed. */
  readonly payloads: Map<string, PayloadRecord | { readonly parts: number }>
  /** Payloads that belong to an event with an id of its own, by that id. */
  readonly claims: Map<string, readonly string[]>
  /** What it does in keys, as it was when it was last asked for; where the outbox sends it, it is asked for then. */
  turns: Turns
}

/** Collects what is written together: your own items, and the outbox's. Nothing is sent before the end. */
export class DynamoDBTransaction {
  readonly #own: TransactItem[] = []
  /** The outbox's part. Not needed by users. */
  readonly collected: Collected = {
    events: new Map(),
    settlements: new Map(),
    payloads: new Map(),
    claims: new Map(),
    turns: [],
  }
  #ended = false
  #turn: Promise<unknown> = Promise.resolve()
  #items: (() => readonly TransactItem[]) | undefined

  /** Puts an item of your own. @throws TransactionClosedError */
  put(item: NonNullable<TransactItem['Put']>): this {
    return this.add({ Put: item })
  }

  /** Updates an item of your own. @throws TransactionClosedError */
  update(item: NonNullable<TransactItem['Update']>): this {
    return this.add({ Update: item })
  }

  /** Deletes an item of your own. @throws TransactionClosedError */
  delete(item: NonNullable<TransactItem['Delete']>): this {
    return this.add({ Delete: item })
  }

  /** Checks an item of your own. @throws TransactionClosedError */
  conditionCheck(item: NonNullable<TransactItem['ConditionCheck']>): this {
    return this.add({ ConditionCheck: item })
  }

  /** Adds one entry of a TransactWriteItems as it is. @throws TransactionClosedError */
  add(item: TransactItem): this {
    this.assertOpen()
    this.#own.push(item)
    return this
  }

  /** Your own items, as added so far. */
  get ownItems(): readonly TransactItem[] {
    return this.#own
  }

  /**
   * Everything to send, in a transaction that you made with `begin()` and send yourself: your items, then the outbox's.
   *
   * @throws TransactionTooLargeError when there are more than 100, or more than 4 MB in them
   */
  get items(): readonly TransactItem[] {
    const items = [...this.#own, ...(this.#items?.() ?? [])]
    assertSize(items)
    return items
  }

  get ended(): boolean {
    return this.#ended
  }

  /** @throws TransactionClosedError */
  assertOpen(): void {
    if (this.#ended) throw new TransactionClosedError()
  }

  /**
   * Has `work` done after what was begun before it, with what it waits for: as on a connection, whatever comes first
   * counts first. Called by the outbox.
   */
  inTurn<T, R>(awaited: Promise<T>, work: (result: T) => R): Promise<R> {
    const turn = Promise.allSettled([awaited, this.#turn]).then(([attempt]) => {
      if (attempt.status === 'rejected') throw attempt.reason
      return work(attempt.value)
    })
    this.#turn = turn
    return turn
  }

  /** Notes what it holds; the returned function takes back what came since. Called by the outbox. */
  savepoint(): () => void {
    const { length } = this.#own
    const { events, settlements, payloads, claims, turns } = this.collected
    const kept = [noted(events), noted(settlements), noted(payloads), noted(claims)]
    return () => {
      this.#own.length = length
      this.collected.turns = turns
      for (const restore of kept) restore()
    }
  }

  /** Takes nothing more. Called by the outbox. */
  end(): void {
    this.#ended = true
  }

  /** Says how the outbox's part becomes items. Called by the outbox. */
  attach(items: () => readonly TransactItem[]): void {
    this.#items = items
  }
}

/** Notes what a map holds; the returned function makes it hold just that again. */
function noted<Key, Value>(map: Map<Key, Value>): () => void {
  const entries = [...map]
  return () => {
    map.clear()
    for (const [key, value] of entries) map.set(key, value)
  }
}
