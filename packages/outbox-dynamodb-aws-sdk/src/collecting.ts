import { changeBy, ForeignTransactionError, type Outcome, type OutcomeResult } from 'outbox-core'
import type { DocumentClient } from './client.ts'
import type { EventItem, Items } from './items.ts'
import { parallel } from './parallel.ts'
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

/** Puts outcomes into transactions. What would refuse them is asked now; the transaction itself asks again. */
export class Collecting {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #items: Items
  readonly #writer: OutcomeWriter

  constructor(client: DocumentClient, parts: { tables: Tables; items: Items; writer: OutcomeWriter }) {
    this.#client = client
    this.#table = parts.tables.events
    this.#items = parts.items
    this.#writer = parts.writer
  }

  /** Adds outcomes to a transaction; none of them when it throws. */
  async add(outcomes: readonly Outcome[], tx: DynamoDBTransaction): Promise<readonly OutcomeResult[]> {
    assertOpen(tx)
    // Of one that the outbox has not been told of before: whoever sends it must find this in it.
    tx.attach(() => this.#writer.collectedItems(tx))
    for (const outcome of outcomes) this.#items.check(outcome)
    const copies = outcomes.map(copied)
    const reading = parallel(copies, (outcome) => this.#stored(outcome))
    return tx.inTurn(reading, (stored) => {
      // Nobody sends what comes after the end.
      tx.assertOpen()
      return copies.map((outcome, index) => collected(outcome, stored[index] ?? { parts: [] }, tx.collected))
    })
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

  async #stored({ settle, append: [event], remove }: Outcome): Promise<Stored> {
    return {
      settled: settle && (await this.#event(settle.id)),
      taken: event && event.fingerprint !== null ? await this.#event(event.id) : undefined,
      parts: await parallel(remove, (id) => this.#writer.parts(id)),
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
  if (settle) into.settlements.set(settle.id, settle)
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
