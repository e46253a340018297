import { changeBy, ForeignTransactionError, type Outcome, type OutcomeResult } from 'outbox-core'
import type { Addresses } from './addresses.ts'
import type { DocumentClient } from './client.ts'
import type { EventItem, EventItems } from './event-items.ts'
import { parallel } from './parallel.ts'
import type { PayloadItems } from './payload-items.ts'
import { readItem } from './read-item.ts'
import type { Tables } from './schema.ts'
import { type Collected, DynamoDBTransaction } from './transaction.ts'
import type { OutcomeWriter } from './write.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** What is stored of that which an outcome is about. */
interface Stored {
  readonly settled?: EventItem | undefined
  readonly taken?: EventItem | undefined
  /** Of how many items each payload is that it removes. */
  readonly parts: readonly number[]
}

interface Parts {
  readonly tables: Tables
  readonly events: EventItems
  readonly payloadItems: PayloadItems
  readonly addresses: Addresses
  readonly writer: OutcomeWriter
}

/** Puts outcomes into transactions. What would refuse them is asked now; the transaction itself asks again. */
export class Collecting {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #parts: Parts
  readonly #ours = new WeakSet<DynamoDBTransaction>()

  constructor(client: DocumentClient, parts: Parts) {
    this.#client = client
    this.#table = parts.tables.events
    this.#parts = parts
  }

  /** Begins a transaction that the outbox itself will send. */
  begin(): DynamoDBTransaction {
    const tx = new DynamoDBTransaction()
    this.#ours.add(tx)
    return tx
  }

  /** Lets whoever sends a transaction find the outbox's part in it. */
  attach(tx: DynamoDBTransaction): void {
    tx.attach(() => this.#parts.writer.collectedItems(tx))
  }

  /** Adds outcomes to a transaction; none of them when it throws. */
  async add(outcomes: readonly Outcome[], tx: DynamoDBTransaction): Promise<readonly OutcomeResult[]> {
    assertOpen(tx)
    // It may be one that the outbox has not been told of before.
    this.attach(tx)
    for (const outcome of outcomes) this.#check(outcome)
    const copies = outcomes.map(copied)
    const results = await tx.inTurn(this.#read(copies, tx), (stored) => {
      // Nobody sends what comes after the end.
      tx.assertOpen()
      return copies.map((outcome, index) => collected(outcome, stored[index] ?? { parts: [] }, tx.collected))
    })
    // Whoever sends it reads nothing.
    if (!this.#ours.has(tx)) {
      await tx.inTurn(this.#parts.writer.turns(tx), (turns) => {
        tx.collected.turns = turns
      })
    }
    return results
  }

  /** Does work, and takes back what the transaction was given meanwhile when it fails. */
  async nested<R>(tx: DynamoDBTransaction, work: () => Promise<R>): Promise<R> {
    assertOpen(tx)
    const begun = Promise.resolve()
    const takeBack = await tx.inTurn(begun, () => tx.savepoint())
    try {
      return await work()
    } catch (error) {
      // What it began and did not wait for is taken back with the rest.
      await tx.inTurn(begun, takeBack)
      throw error
    }
  }

  async #read(outcomes: readonly Outcome[], tx: DynamoDBTransaction): Promise<readonly Stored[]> {
    const appended = outcomes.flatMap(({ append }) => append.map(({ address }) => address))
    const [stored] = await Promise.all([
      parallel(outcomes, (outcome) => this.#stored(outcome)),
      this.#ours.has(tx) ? undefined : this.#parts.addresses.note(appended),
    ])
    return stored
  }

  /** @throws EventTooLargeError, StorageError: what making its items would throw */
  #check({ settle, append, put }: Outcome): void {
    const { events, payloadItems } = this.#parts
    if (settle) events.settle(settle)
    for (const event of append) events.append(event)
    for (const { id, expires } of put) payloadItems.put({ id, expires, data: new Uint8Array() })
  }

  async #stored({ settle, append: [event], remove }: Outcome): Promise<Stored> {
    return {
      settled: settle && (await this.#event(settle.id)),
      taken: event && event.fingerprint !== null ? await this.#event(event.id) : undefined,
      parts: await parallel(remove, (id) => this.#parts.writer.parts(id)),
    }
  }

  #event(id: string): Promise<EventItem | undefined> {
    return readItem(this.#client, this.#table, id)
  }
}

/** @throws ForeignTransactionError, TransactionClosedError */
export function assertOpen(tx: DynamoDBTransaction): void {
  if (!(tx instanceof DynamoDBTransaction)) {
    throw new ForeignTransactionError('this is no transaction of the outbox; take one from outbox.begin()')
  }
  tx.assertOpen()
}

function collected(outcome: Outcome, stored: Stored, into: Collected): OutcomeResult {
  const result = judged(outcome, stored, into)
  if (result !== APPLIED) return result
  const { settle, append, put, remove } = outcome
  if (settle) into.settlements.set(settle.id, { settle, stored: stored.settled })
  for (const event of append) {
    into.events.set(event.id, event)
    const claims = put.map(({ id }) => id)
    if (event.fingerprint !== null) into.claims.set(event.id, claims)
  }
  for (const [index, id] of remove.entries()) into.payloads.set(id, { parts: stored.parts[index] ?? 1 })
  for (const record of put) into.payloads.set(record.id, record)
  return APPLIED
}

function judged(
  { settle, append: [event] }: Outcome,
  { settled, taken }: Stored,
  { settlements, events }: Collected,
): OutcomeResult {
  if (settle) {
    if (settlements.has(settle.id)) return LOST
    if (settled?.state !== changeBy(settle).from || settled.attempt !== settle.attempt) return LOST
  }
  if (!event || event.fingerprint === null) return APPLIED
  const earlier = events.get(event.id) ?? taken
  return earlier ? { status: 'duplicate', fingerprint: earlier.fingerprint ?? null } : APPLIED
}

/** The caller may reuse its bytes before the transaction is sent; a Buffer's `slice` would still be them. */
function copied(outcome: Outcome): Outcome {
  return { ...outcome, put: outcome.put.map((record) => ({ ...record, data: Uint8Array.from(record.data) })) }
}
