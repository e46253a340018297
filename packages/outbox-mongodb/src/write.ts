import { changeBy, type NewEvent, type Outcome, type OutcomeResult, type Settlement } from 'outbox-core'
import { findAll, type MongoCollection } from './client.ts'
import type { Keys } from './keys.ts'
import {
  appendOperation,
  changeOperations,
  deleteFilters,
  type Operation,
  putOperation,
} from './operations.ts'
import { changesKeys, isApplied, Ordering } from './ordering.ts'
import { BY_ID, type EventDocument } from './schema.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** Applies outcomes: many in a transaction, or one operation that is atomic by itself. */
export class OutcomeWriter {
  readonly #events: MongoCollection
  readonly #payloads: MongoCollection
  readonly #ordering: Ordering

  constructor(events: MongoCollection, payloads: MongoCollection, keys: Keys) {
    this.#events = events
    this.#payloads = payloads
    this.#ordering = new Ordering(events, keys)
  }

  /** Whether `write` is one operation, so that it needs no transaction around it. */
  isOneOperation(outcomes: readonly Outcome[]): boolean {
    const parts = outcomes.map(
      ({ settle, append, put, remove }) => (settle ? 1 : 0) + append.length + put.length + remove.length,
    )
    return parts.reduce((sum, count) => sum + count, 0) <= 1 && !outcomes.some(changesKeys)
  }

  /** Applies what can be applied; asks first which leases still hold. */
  async write(outcomes: readonly Outcome[], options: object): Promise<readonly OutcomeResult[]> {
    const results = await this.#look(outcomes, options)
    const places = await this.#ordering.placesToTake(outcomes, options)
    // What turns out to be a duplicate here is not to be settled either.
    await this.#append(outcomes, results, places, options)
    await this.#settleAll(outcomes, results, options)
    await this.#ordering.goOn(outcomes, results, options)
    await this.#changePayloads(outcomes, results, options)
    return results
  }

  /**
   * The same without asking first, which saves a round trip.
   *
   * @returns undefined when one lease of several was lost: roll back, then `write`
   */
  async writeHeld(
    outcomes: readonly Outcome[],
    options: object,
  ): Promise<readonly OutcomeResult[] | undefined> {
    if (outcomes.some(mayBeDuplicateOrLost)) return this.write(outcomes, options)
    const results: OutcomeResult[] = outcomes.map(() => APPLIED)
    const places = await this.#ordering.placesToTake(outcomes, options)
    const held = await this.#settleAll(outcomes, results, options)
    if (!held) return outcomes.length === 1 ? [LOST] : undefined
    await this.#append(outcomes, results, places, options)
    await this.#ordering.goOn(outcomes, results, options)
    await this.#changePayloads(outcomes, results, options)
    return results
  }

  /** Whether every lease held. */
  async #settleAll(
    outcomes: readonly Outcome[],
    results: readonly OutcomeResult[],
    options: object,
  ): Promise<boolean> {
    const settles = outcomes.flatMap(({ settle }, index) => (isApplied(results, index) && settle) || [])
    if (settles.length > 0 && (await this.#settle(settles, options)) < settles.length) return false
    await this.#ordering.completeBehind(settles, options)
    return true
  }

  async #changePayloads(
    outcomes: readonly Outcome[],
    results: readonly OutcomeResult[],
    options: object,
  ): Promise<void> {
    const applied = outcomes.filter((_, index) => isApplied(results, index))
    await this.#remove(
      applied.flatMap(({ remove }) => remove),
      options,
    )
    const puts = applied.flatMap(({ put }) => put.map(putOperation))
    await upsert(this.#payloads, puts, options)
  }

  /** Which settlements name an event as it is now; the transaction keeps it so. */
  async #look(outcomes: readonly Outcome[], options: object): Promise<OutcomeResult[]> {
    const ids = outcomes.flatMap(({ settle }) => settle?.id ?? [])
    if (ids.length === 0) return outcomes.map(() => APPLIED)
    const found = await findAll<EventDocument>(this.#events, { _id: { $in: ids } }, ids.length, {
      ...options,
      ...BY_ID,
      projection: { attempt: 1, state: 1 },
    })
    const byId = new Map(found.map((event) => [event._id, event]))
    return outcomes.map(({ settle }) => {
      if (!settle) return APPLIED
      const event = byId.get(settle.id)
      return event?.attempt === settle.attempt && event.state === changeBy(settle).from ? APPLIED : LOST
    })
  }

  /** Each is fenced by its attempt number; returns how many were still held. */
  async #settle(settles: readonly Settlement[], options: object): Promise<number> {
    // The driver repeats an operation that lost its connection only when it is on one document.
    const single = settles.length === 1
    const byId = { ...options, ...BY_ID }
    let settled = 0
    for (const filter of deleteFilters(settles)) {
      const deleted = await (single
        ? this.#events.deleteOne(filter, byId)
        : this.#events.deleteMany(filter, byId))
      settled += deleted.deletedCount
    }
    const [change, ...others] = changeOperations(settles)
    if (single && change) {
      settled += (await this.#events.updateOne(change.filter, change.update, byId)).matchedCount
    } else if (change) {
      const updates = [change, ...others].map((operation) => ({ updateMany: { ...operation, ...BY_ID } }))
      settled += (await this.#events.bulkWrite(updates as never[], options)).matchedCount
    }
    return settled
  }

  /** Appends what survived settling; an event whose id is taken turns its outcome into a duplicate. */
  async #append(
    outcomes: readonly Outcome[],
    results: OutcomeResult[],
    places: ReadonlyMap<string, number>,
    options: object,
  ): Promise<void> {
    const applied = outcomes.filter((_, index) => isApplied(results, index))
    const events = applied.flatMap(({ append }) => append)
    const turns = await this.#ordering.turns(applied, places, options)
    const operations = events.map((event) => appendOperation(event, turns.get(event)))
    const inserted = await upsert(this.#events, operations, options)
    const known = events.filter((_, index) => !inserted.has(index))
    await this.#ordering.unblockBehind(known, turns, options)
    const taken = known.filter(({ fingerprint }) => fingerprint !== null)
    if (taken.length === 0) return
    const first = await this.#fingerprints(taken, options)
    for (const [index, outcome] of outcomes.entries()) {
      const [event] = outcome.append
      if (!event || !isApplied(results, index) || !taken.includes(event)) continue
      const fingerprint = first.get(event.id)
      if (fingerprint !== undefined) results[index] = { status: 'duplicate', fingerprint }
      // One that was completed meanwhile has left its id free.
      else results[index] = await this.#appendAgain(outcome, places, options)
    }
  }

  async #appendAgain(
    outcome: Outcome,
    places: ReadonlyMap<string, number>,
    options: object,
  ): Promise<OutcomeResult> {
    const results = [APPLIED]
    await this.#append([outcome], results, places, options)
    return results[0] ?? APPLIED
  }

  async #fingerprints(events: readonly NewEvent[], options: object): Promise<Map<string, string | null>> {
    const ids = events.map(({ id }) => id)
    const found = await findAll<EventDocument>(this.#events, { _id: { $in: ids } }, ids.length, {
      ...options,
      ...BY_ID,
      projection: { fingerprint: 1 },
    })
    return new Map(found.map(({ _id, fingerprint }) => [_id, fingerprint]))
  }

  async #remove(ids: readonly string[], options: object): Promise<void> {
    if (ids.length === 1) await this.#payloads.deleteOne({ _id: ids[0] }, options)
    else if (ids.length > 1) await this.#payloads.deleteMany({ _id: { $in: ids } }, { ...options, ...BY_ID })
  }
}

function mayBeDuplicateOrLost({ settle, append }: Outcome): boolean {
  return settle !== undefined && append.some(({ fingerprint }) => fingerprint !== null)
}

/** Upserts in one command; returns the positions of what was not there before. */
async function upsert(
  collection: MongoCollection,
  operations: readonly Operation[],
  options: object,
): Promise<Set<number>> {
  const [first] = operations
  if (!first) return new Set()
  if (operations.length === 1) {
    const { upsertedCount } = await collection.updateOne(first.filter, first.update, {
      ...options,
      upsert: true,
    })
    return new Set(upsertedCount === 1 ? [0] : [])
  }
  const updates = operations.map((operation) => ({ updateOne: { ...operation, upsert: true } }))
  const { upsertedIds } = await collection.bulkWrite(updates as never[], options)
  return new Set(Object.keys(upsertedIds).map(Number))
}
