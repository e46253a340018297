import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  DeleteCommand,
  GetCommand,
  PutCommand,
  TransactWriteCommand,
  UpdateCommand,
} from '@aws-sdk/lib-dynamodb'
import { DuplicateEventError, type Outcome, type OutcomeResult, StorageError } from 'outbox-core'
import { type DocumentClient, send } from './client.ts'
import {
  assertFits,
  type CancellationReason,
  cancellationReasons,
  dynamoError,
  dynamoWriteError,
  failedCondition,
  mayPass,
} from './errors.ts'
import { itemBytes } from './item-size.ts'
import type { EventItem, Items, PayloadItem } from './items.ts'
import type { Tables } from './schema.ts'
import type { DynamoDBTransaction, TransactItem } from './transaction.ts'

const MOST_ITEMS = 100
const MOST_BYTES = 4 * 1024 * 1024
const MOST_TRIES = 8

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** Applies outcomes: one request each, a transaction where it holds several items. */
export class OutcomeWriter {
  readonly #client: DocumentClient
  readonly #tables: Tables
  readonly #items: Items
  readonly #chunks: boolean

  constructor(client: DocumentClient, tables: Tables, items: Items, chunks: boolean) {
    this.#client = client
    this.#tables = tables
    this.#items = items
    this.#chunks = chunks
  }

  async apply({ settle, append, put, remove }: Outcome): Promise<OutcomeResult> {
    const items: TransactItem[] = [
      ...(settle ? [this.#items.settle(settle)] : []),
      ...append.map((event) => ({ Put: this.#items.append(event) })),
      ...put.flatMap((record) => this.#items.put(record).map((item) => ({ Put: item }))),
      ...(await this.#removals(remove)),
    ]
    const [only] = items
    if (!only) return APPLIED
    if (items.length === 1) return this.#applyOne(only, append[0]?.fingerprint)
    assertTransaction(items)
    const reasons = await this.#transact(items)
    if (!reasons) return APPLIED
    if (settle && reasons[0]?.Code === 'ConditionalCheckFailed') return LOST
    const at = settle ? 1 : 0
    const [taken] = reasons
      .slice(at, at + append.length)
      .filter(({ Code }) => Code === 'ConditionalCheckFailed')
    // A generated id that is taken was taken by this very write, whose answer was lost.
    if (taken) return append[0]?.fingerprint === null ? APPLIED : duplicate(taken.Item)
    throw canceled(reasons)
  }

  /** Sends a transaction: the user's items and what the outbox collected, all or none. */
  async commit(tx: DynamoDBTransaction): Promise<void> {
    for (;;) {
      const items = [...tx.ownItems, ...this.collectedItems(tx)]
      if (items.length === 0) return
      assertTransaction(items)
      const reasons = await this.#transact(items)
      if (!reasons) return
      this.#withoutRepeated(tx, reasons)
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
    if (!this.#chunks) return 1
    const request = new GetCommand({
      TableName: this.#tables.payloads,
      Key: { id },
      ConsistentRead: true,
      ProjectionExpression: 'parts',
    })
    const { Item } = await send<{ Item?: Pick<PayloadItem, 'parts'> }>(this.#client, request)
    return Item?.parts ?? 1
  }

  async #removals(ids: readonly string[]): Promise<TransactItem[]> {
    const removals: TransactItem[] = []
    for (const id of ids) {
      for (const item of this.#items.remove(id, await this.parts(id))) removals.push({ Delete: item })
    }
    return removals
  }

  async #applyOne(
    { Put, Update, Delete }: TransactItem,
    fingerprint: string | null | undefined,
  ): Promise<OutcomeResult> {
    try {
      if (Put) await send(this.#client, new PutCommand(Put as never))
      if (Update) await send(this.#client, new UpdateCommand(Update as never))
      if (Delete) await send(this.#client, new DeleteCommand(Delete as never))
      return APPLIED
    } catch (error) {
      const found = failedCondition(error)
      if (!found) throw dynamoWriteError(error)
      if (!Put) return LOST
      return fingerprint === null ? APPLIED : duplicate(found)
    }
  }

  /** Sends a transaction until it is written or cancelled for good; the reasons then. */
  async #transact(items: readonly TransactItem[]): Promise<readonly CancellationReason[] | undefined> {
    const request = { TransactItems: [...items], ClientRequestToken: randomUUID() }
    for (let tries = 1; ; tries++) {
      try {
        await send(this.#client, new TransactWriteCommand(request))
        return undefined
      } catch (error) {
        const reasons = cancellationReasons(error)
        if (!reasons) throw dynamoWriteError(error)
        if (!mayPass(reasons)) return reasons
        if (tries === MOST_TRIES) throw dynamoError(error)
        // A cancelled transaction has used up its token.
        request.ClientRequestToken = randomUUID()
        await sleep(Math.random() * 10 * 2 ** tries)
      }
    }
  }

  // An event with an id of its own may have been written between the look at it and now: the same event is no reason to fail.
  #withoutRepeated(tx: DynamoDBTransaction, reasons: readonly CancellationReason[]): void {
    const { settlements, events, payloads, claims } = tx.collected
    const first = tx.ownItems.length + settlements.size
    const taken = [...events.values()].flatMap((event, index) => {
      const reason = reasons[first + index]
      return reason?.Code === 'ConditionalCheckFailed' ? [{ event, found: reason.Item }] : []
    })
    const failed = reasons.filter(({ Code = 'None' }) => Code !== 'None').length
    if (taken.length === 0 || failed > taken.length) throw canceled(reasons)
    for (const { event, found } of taken) {
      if (event.fingerprint === null || fingerprintOf(found) !== event.fingerprint) {
        throw new DuplicateEventError(event.id)
      }
      events.delete(event.id)
      for (const claim of claims.get(event.id) ?? []) payloads.delete(claim)
    }
  }
}

/** The fingerprint in an event's item, marshalled or not. */
function fingerprintOf(item: Readonly<Record<string, unknown>> | undefined): string | null {
  const { fingerprint } = (item ?? {}) as { fingerprint?: EventItem['fingerprint'] | { S?: string } }
  return (typeof fingerprint === 'object' ? fingerprint.S : fingerprint) ?? null
}

function duplicate(item: Readonly<Record<string, unknown>> | undefined): OutcomeResult {
  return { status: 'duplicate', fingerprint: fingerprintOf(item) }
}

function canceled(reasons: readonly CancellationReason[]): Error {
  const failed = reasons.findIndex(({ Code = 'None' }) => Code !== 'None')
  const { Code, Message = '' } = reasons[failed] ?? {}
  const error = new StorageError(
    `item ${failed + 1} of the transaction was refused (${Code}: ${Message}); nothing was written`,
    {
      transient: false,
      cause: Object.assign(new Error('TransactionCanceledException'), { CancellationReasons: reasons }),
    },
  )
  return error
}

/** @throws TransactionTooLargeError before anything is sent */
function assertTransaction(items: readonly TransactItem[]): void {
  assertFits('items', MOST_ITEMS, items.length)
  const bytes = items.reduce((sum, { Put, Update, Delete, ConditionCheck }) => {
    return sum + itemBytes(Put?.Item ?? Update?.Key ?? Delete?.Key ?? ConditionCheck?.Key ?? {})
  }, 0)
  assertFits('bytes', MOST_BYTES, bytes)
  const keys = new Set<string>()
  for (const { Update, Delete, ConditionCheck } of items) {
    const target = Update ?? Delete ?? ConditionCheck
    if (!target) continue
    const key = JSON.stringify([target.TableName, target.Key])
    if (keys.has(key)) {
      throw new StorageError('the transaction names the same item twice; DynamoDB takes each item once', {
        transient: false,
      })
    }
    keys.add(key)
  }
}
