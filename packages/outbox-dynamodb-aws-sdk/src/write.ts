import {
  type Clock,
  changeBy,
  DuplicateEventError,
  KeyTurns,
  keyYielded,
  type NewEvent,
  type Outcome,
  type OutcomeResult,
  type Settlement,
  StorageError,
  UnknownOutcomeError,
} from 'outbox-core'
import type { Addresses } from './addresses.ts'
import { fingerprintOf, isOvertaken, isUnmet, overtaken, refusal, resultOf } from './cancellations.ts'
import type { DocumentClient } from './client.ts'
import { type Cancellation, dynamoError } from './errors.ts'
import { type EventItem, needsStored } from './event-items.ts'
import type { HeldPlaces } from './held-places.ts'
import type { Order, Turns } from './keys.ts'
import { assertSize, Identities } from './limits.ts'
import { type ItemParts, OutcomeItems } from './outcome-items.ts'
import { attempted } from './parallel.ts'
import { readItem } from './read-item.ts'
import type { Tables } from './schema.ts'
import { MOST_TRIES, pause, Sending } from './sending.ts'
import { Settling } from './settling.ts'
import type { TransactItem } from './transact-item.ts'
import type { DynamoDBTransaction } from './transaction.ts'
import type { Settled } from './turns.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

interface Parts extends ItemParts {
  readonly tables: Tables
  readonly held: HeldPlaces
  readonly addresses: Addresses
  readonly clock: Clock
}

/**
 * Applies outcomes, each by one request that the driver may send twice: a transaction with a token that DynamoDB knows it
 * by, or a settlement that recognizes itself. An event on its own is a transaction too: a plain put that is sent again
 * after the event was handled would store it again, and nothing could tell.
 */
export class OutcomeWriter {
  readonly #client: DocumentClient
  readonly #parts: Parts
  readonly #identities: Identities
  readonly #items: OutcomeItems
  readonly #sending: Sending
  readonly #settling: Settling
  readonly #keyTurns = new KeyTurns()
  /** Results of calls that failed because of other outcomes. */
  readonly #results = new WeakMap<Outcome, OutcomeResult>()
  /** Outcomes that may have been applied without an answer. */
  readonly #unanswered = new WeakSet<Outcome>()

  constructor(client: DocumentClient, parts: Parts) {
    this.#client = client
    this.#parts = parts
    this.#identities = new Identities(client, parts.tables)
    this.#items = new OutcomeItems(parts)
    this.#sending = new Sending(client, parts.clock)
    this.#settling = new Settling(client, parts.tables, parts.events)
  }

  /**
   * Applies each outcome by itself: no transaction holds a batch. What can be judged of them is judged before the first
   * is sent. When one fails then, the call fails after all others have been tried; repeated with the same outcomes, it
   * knows those that went through, which would be lost otherwise. Those of one key are applied one after the other, and
   * none after one that failed.
   */
  async write(outcomes: readonly Outcome[]): Promise<readonly OutcomeResult[]> {
    if (outcomes.length > 1) for (const outcome of outcomes) this.#judge(outcome)
    const before = new Map<string, Promise<OutcomeResult>>()
    const attempts = await attempted(outcomes, (outcome) => {
      const keys = keysOf(outcome)
      const awaited = keys.flatMap((key) => before.get(key) ?? [])
      const apply = async () => this.#results.get(outcome) ?? this.#inTurn(outcome)
      const result = awaited.length > 0 ? Promise.all(awaited).then(apply) : apply()
      for (const key of keys) before.set(key, result)
      return result
    })
    const failed = attempts.filter((attempt) => attempt.status === 'rejected')
    if (failed.length > 0) {
      for (const [index, outcome] of outcomes.entries()) {
        const attempt = attempts[index]
        if (attempt?.status === 'fulfilled') this.#results.set(outcome, attempt.value)
      }
      // What passes by itself must not hide what does not: core then writes each by itself.
      const errors = failed.map(({ reason }) => dynamoError(reason))
      throw errors.find((error) => !passes(error)) ?? errors[0]
    }
    return attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? attempt.value : []))
  }

  /** Sends a transaction: the user's items and what the outbox collected, all or none. */
  commit(tx: DynamoDBTransaction): Promise<void> {
    const keys = Array.from(tx.collected.events.values(), ({ key }) => key)
    return this.#keyTurns.run(keys, () => this.#commit(tx))
  }

  /** What a transaction does in keys, by what is stored of them now. */
  turns({ collected }: DynamoDBTransaction): Promise<Turns> {
    return this.#parts.keys.read([...collected.settlements.values()], [...collected.events.values()])
  }

  /** What the outbox has to write in a transaction: settlements, events, payloads. */
  collectedItems(tx: DynamoDBTransaction): readonly TransactItem[] {
    return this.#items.collected(tx, tx.collected.turns).items
  }

  /** How many items a payload has. */
  parts(id: string): Promise<number> {
    return this.#items.parts(id)
  }

  async #commit(tx: DynamoDBTransaction): Promise<void> {
    for (let tries = 1; ; tries++) {
      const collected = this.#items.collected(tx, await this.turns(tx))
      const items = [...tx.ownItems, ...collected.items]
      if (items.length === 0) return
      assertSize(items)
      await this.#identities.assertDistinct(items)
      const canceled = await this.#send(items, [...tx.collected.events.values()])
      if (!canceled) return
      const first = items.length - collected.ordering
      if (!isOvertaken(canceled, first)) this.#withoutRepeated(tx, canceled, first)
      else if (tries >= MOST_TRIES) throw overtaken(canceled)
      else await pause(tries)
    }
  }

  /** What takes another's place gets in nobody's way. */
  #inTurn(outcome: Outcome): Promise<OutcomeResult> {
    const appended = outcome.append.filter(({ inPlace }) => !inPlace)
    return this.#keyTurns.run(
      appended.map(({ key }) => key),
      () => this.#apply(outcome),
    )
  }

  async #apply(outcome: Outcome): Promise<OutcomeResult> {
    const { settle, append, put, remove } = outcome
    const isAlone = append.length + put.length + remove.length === 0
    if (isAlone && !settle) return APPLIED
    if (isAlone && settle && keyYielded(settle) === undefined) return this.#settling.apply(outcome, settle)
    const removals = await this.#items.removals(remove)
    const settled = settle && (await this.#settled(settle))
    if (settled?.isLost) return isAlone && this.#isApplied(outcome, settled) ? APPLIED : LOST
    for (let tries = 1; ; tries++) {
      const turns = await this.#parts.keys.read(settled ? [settled] : [], append)
      const order = this.#parts.keys.order(turns)
      const items = [...this.#items.written(outcome, order, settled?.stored), ...removals, ...order.items]
      assertSize(items)
      const canceled = await this.#send(items, append).catch((error: unknown) => {
        if (error instanceof UnknownOutcomeError) this.#unanswered.add(outcome)
        throw error
      })
      if (!canceled) return this.#applied(outcome, order)
      const result = resultOf(outcome, canceled)
      if (result) return result
      if (!isOvertaken(canceled, items.length - order.items.length)) throw refusal(canceled)
      if (tries === MOST_TRIES) throw overtaken(canceled)
      await pause(tries)
    }
  }

  async #send(
    items: readonly TransactItem[],
    append: readonly NewEvent[],
  ): Promise<Cancellation | undefined> {
    await this.#parts.addresses.note(append.map(({ address }) => address))
    return this.#sending.transact(items)
  }

  #applied({ append }: Outcome, { places }: Order): OutcomeResult {
    for (const { id, type, key, leased } of append) {
      const at = places.get(id)
      if (leased && at && key !== null) this.#parts.held.note({ id, attempt: 1, type, key, place: at.place })
    }
    return APPLIED
  }

  /** Whether a settlement that is repeated finds its event as it has left it. */
  #isApplied(
    outcome: Outcome,
    { settle, stored }: { settle: Settlement; stored?: Partial<EventItem> | undefined },
  ): boolean {
    if (!this.#unanswered.has(outcome)) return false
    const { to } = changeBy(settle)
    if (to === 'deleted') return stored === undefined
    return stored?.state === to && stored.attempt === settle.attempt && stored.key === undefined
  }

  /** A settlement with its event, read where that matters; then it may be seen to be lost as well. */
  async #settled(settle: Settlement): Promise<Settled & { isLost?: boolean }> {
    if (!needsStored(settle)) return { settle }
    const held = this.#parts.held.take(settle)
    if (held) return { settle, stored: held }
    const stored = await readItem<EventItem>(this.#client, this.#parts.tables.events, settle.id)
    return {
      settle,
      stored,
      isLost: stored?.state !== changeBy(settle).from || stored.attempt !== settle.attempt,
    }
  }

  /** @throws EventTooLargeError, StorageError, TransactionTooLargeError */
  #judge(outcome: Outcome): void {
    if (this.#results.has(outcome)) return
    assertSize([
      ...this.#items.written(outcome),
      ...outcome.remove.flatMap((id) => this.#parts.payloadItems.remove(id, 1)),
    ])
  }

  // An event with an id of its own may have been written between the look at it and now: the same event is no reason to fail.
  #withoutRepeated(tx: DynamoDBTransaction, canceled: Cancellation, end: number): void {
    const { settlements, events, payloads, claims } = tx.collected
    const { reasons } = canceled
    const firstEvent = tx.ownItems.length + settlements.size
    const taken = [...events.values()].flatMap((event, index) => {
      const reason = reasons[firstEvent + index]
      return reason && isUnmet(reason) ? [{ event, found: reason.Item }] : []
    })
    const failed = reasons.slice(0, end).filter(({ Code = 'None' }) => Code !== 'None').length
    if (taken.length === 0 || failed > taken.length) throw refusal(canceled, tx)
    for (const { event, found } of taken) {
      if (event.fingerprint === null || fingerprintOf(found) !== event.fingerprint) {
        throw new DuplicateEventError(event.id)
      }
      events.delete(event.id)
      for (const claim of claims.get(event.id) ?? []) payloads.delete(claim)
    }
  }
}

/** The keys that an outcome changes. */
function keysOf({ settle, append }: Outcome): readonly string[] {
  const keys = append.map(({ key }) => key).concat(keyYielded(settle) ?? null)
  return [...new Set(keys)].filter((key) => key !== null)
}

/** Whether a failure says nothing about what was to be written. */
function passes(error: Error): boolean {
  return error instanceof UnknownOutcomeError || (error instanceof StorageError && error.transient)
}
