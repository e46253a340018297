import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import {
  type Clock,
  DuplicateEventError,
  LeaseLostError,
  type Outcome,
  type OutcomeResult,
  StorageError,
  UnknownOutcomeError,
} from 'outbox-core'
import { isPassingReason, isRefusedReason, mayPass } from './classification.ts'
import { type DocumentClient, send } from './client.ts'
import { type Cancellation, cancellationOf, dynamoError, dynamoWriteError } from './errors.ts'
import type { EventItem, Items } from './items.ts'
import { assertSize, Identities } from './limits.ts'
import { attempted } from './parallel.ts'
import type { Payloads } from './payloads.ts'
import { repeatWhileKnown } from './repeats.ts'
import type { Tables } from './schema.ts'
import { Settling } from './settling.ts'
import type { TransactItem } from './transact-item.ts'
import type { DynamoDBTransaction } from './transaction.ts'

const MOST_TRIES = 8

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/**
 * Applies outcomes, each by one request that the driver may send twice: a transaction with a token that DynamoDB knows it
 * by, or a settlement that recognizes itself. An event on its own is a transaction too: a plain put that is sent again
 * after the event was handled would store it again, and nothing could tell.
 */
export class OutcomeWriter {
  readonly #client: DocumentClient
  readonly #items: Items
  readonly #payloads: Payloads
  readonly #chunks: boolean
  readonly #identities: Identities
  readonly #clock: Clock
  readonly #settling: Settling
  /** Results of calls that failed because of other outcomes. */
  readonly #results = new WeakMap<Outcome, OutcomeResult>()

  constructor(
    client: DocumentClient,
    parts: { tables: Tables; items: Items; payloads: Payloads; chunks: boolean; clock: Clock },
  ) {
    this.#client = client
    this.#items = parts.items
    this.#payloads = parts.payloads
    this.#chunks = parts.chunks
    this.#identities = new Identities(client, parts.tables)
    this.#clock = parts.clock
    this.#settling = new Settling(client, parts.items)
  }

  /**
   * Applies each outcome by itself: no transaction holds a batch. What can be judged of them is judged before the first
   * is sent. When one fails then, the call fails after all others have been tried; repeated with the same outcomes, it
   * knows those that went through, which would be lost otherwise.
   */
  async write(outcomes: readonly Outcome[]): Promise<readonly OutcomeResult[]> {
    if (outcomes.length > 1) for (const outcome of outcomes) this.#judge(outcome)
    const attempts = await attempted(
      outcomes,
      async (outcome) => this.#results.get(outcome) ?? this.#apply(outcome),
    )
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
  async commit(tx: DynamoDBTransaction): Promise<void> {
    for (;;) {
      const items = [...tx.ownItems, ...this.collectedItems(tx)]
      if (items.length === 0) return
      assertSize(items)
      await this.#identities.assertDistinct(items)
      const canceled = await this.#transact(items)
      if (!canceled) return
      this.#withoutRepeated(tx, canceled)
    }
  }

  /** What the outbox has to write in a transaction: settlements, events, payloads. */
  collectedItems({ collected }: DynamoDBTransaction): TransactItem[] {
    return [
      ...[...collected.settlements.values()].map((settle) => this.#items.settle(settle)),
      ...[...collected.events.values()].map((event) => ({ Put: this.#items.append(event) })),
      ...[...collected.payloads].flatMap(([id, change]): TransactItem[] =>
        'data' in change
          ? this.#items.put(change).map((item) => ({ Put: item }))
          : this.#items.remove(id, change.parts).map((item) => ({ Delete: item })),
      ),
    ]
  }

  /** How many items a payload has. */
  async parts(id: string): Promise<number> {
    return this.#chunks ? this.#payloads.parts(id) : 1
  }

  async #apply(outcome: Outcome): Promise<OutcomeResult> {
    const { settle, append, put, remove } = outcome
    if (append.length + put.length + remove.length === 0)
      return settle ? this.#settling.apply(outcome, settle) : APPLIED
    const items = [...this.#written(outcome), ...(await this.#removals(remove))]
    assertSize(items)
    const canceled = await this.#transact(items)
    if (!canceled) return APPLIED
    const { reasons } = canceled
    if (settle && reasons[0]?.Code === 'ConditionalCheckFailed') return LOST
    const at = settle ? 1 : 0
    const [taken] = reasons
      .slice(at, at + append.length)
      .filter(({ Code }) => Code === 'ConditionalCheckFailed')
    // A generated id that is taken was taken by this very write, whose answer was lost.
    if (taken) return append[0]?.fingerprint === null ? APPLIED : duplicate(taken.Item)
    throw refusal(canceled)
  }

  /** @throws EventTooLargeError, StorageError, TransactionTooLargeError */
  #judge(outcome: Outcome): void {
    if (this.#results.has(outcome)) return
    assertSize([
      ...this.#written(outcome),
      ...outcome.remove.flatMap((id) => removals(this.#items.remove(id, 1))),
    ])
  }

  /** An outcome's items, without those that it removes. */
  #written({ settle, append, put }: Outcome): TransactItem[] {
    return [
      ...(settle ? [this.#items.settle(settle)] : []),
      ...append.map((event) => ({ Put: this.#items.append(event) })),
      ...put.flatMap((record) => this.#items.put(record).map((item) => ({ Put: item }))),
    ]
  }

  async #removals(ids: readonly string[]): Promise<TransactItem[]> {
    const items: TransactItem[] = []
    for (const id of ids) items.push(...removals(this.#items.remove(id, await this.parts(id))))
    return items
  }

  /** Sends a transaction until it is written or cancelled for good. */
  async #transact(items: readonly TransactItem[]): Promise<Cancellation | undefined> {
    for (let tries = 1; ; tries++) {
      try {
        // A cancelled transaction has used up its token.
        const request = { TransactItems: [...items], ClientRequestToken: randomUUID() }
        const command = new TransactWriteCommand(request)
        repeatWhileKnown(command, this.#clock)
        await send(this.#client, command)
        return undefined
      } catch (error) {
        const canceled = cancellationOf(error)
        if (!canceled) throw dynamoWriteError(error)
        if (!mayPass(canceled.reasons)) return canceled
        if (tries === MOST_TRIES) throw dynamoError(error)
        await sleep(Math.random() * 10 * 2 ** tries)
      }
    }
  }

  // An event with an id of its own may have been written between the look at it and now: the same event is no reason to fail.
  #withoutRepeated(tx: DynamoDBTransaction, canceled: Cancellation): void {
    const { settlements, events, payloads, claims } = tx.collected
    const { reasons } = canceled
    const firstEvent = tx.ownItems.length + settlements.size
    const taken = [...events.values()].flatMap((event, index) => {
      const reason = reasons[firstEvent + index]
      return reason?.Code === 'ConditionalCheckFailed' ? [{ event, found: reason.Item }] : []
    })
    const failed = reasons.filter(({ Code = 'None' }) => Code !== 'None').length
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

function removals(items: readonly NonNullable<TransactItem['Delete']>[]): TransactItem[] {
  return items.map((item) => ({ Delete: item }))
}

/** Whether a failure says nothing about what was to be written. */
function passes(error: Error): boolean {
  return error instanceof UnknownOutcomeError || (error instanceof StorageError && error.transient)
}

/** The fingerprint in an event's item, marshalled or not. */
function fingerprintOf(item: Readonly<Record<string, unknown>> | undefined): string | null {
  const { fingerprint } = (item ?? {}) as { fingerprint?: EventItem['fingerprint'] | { S?: string } }
  return (typeof fingerprint === 'object' ? fingerprint.S : fingerprint) ?? null
}

function duplicate(item: Readonly<Record<string, unknown>> | undefined): OutcomeResult {
  return { status: 'duplicate', fingerprint: fingerprintOf(item) }
}

/** Why a transaction was refused: by the first of its items that was. */
function refusal({ reasons, cause }: Cancellation, tx?: DynamoDBTransaction): Error {
  const refused = reasons.findIndex(isRefusedReason)
  const failed = refused === -1 ? reasons.findIndex((reason) => !isPassingReason(reason)) : refused
  if (failed === -1) return dynamoError(cause)
  const { Code, Message = '' } = reasons[failed] ?? {}
  const own = tx?.ownItems.length ?? 0
  const options = { cause: withoutEvents(cause, reasons, own) }
  const settle = [...(tx?.collected.settlements.values() ?? [])][failed - own]
  if (settle && Code === 'ConditionalCheckFailed') {
    return new LeaseLostError(
      `event "${settle.id}" went to another worker meanwhile; nothing was written`,
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
