import type { NewEvent, Outcome, OutcomeResult, Settlement } from 'outbox-core'
import type { MongoCollection } from './client.ts'
import { appendOperation, changeOperation, deletes, heldFilter, putOperation } from './operations.ts'
import type { EventDocument } from './schema.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** Applies outcomes: many in a transaction, or one operation that is atomic by itself. */
export class OutcomeWriter {
  readonly #events: MongoCollection
  readonly #payloads: MongoCollection

  constructor(events: MongoCollection, payloads: MongoCollection) {
    this.#events = events
    this.#payloads = payloads
  }

  /** Whether `write` needs no transaction around it. */
  isOneOperation(outcomes: readonly Outcome[]): boolean {
    if (outcomes.length === 0) return true
    const parts = outcomes.map(({ append, put, remove }) => append.length + put.length + remove.length)
    const total = parts.reduce((sum, count) => sum + count, 0)
    const settles = outcomes.flatMap(({ settle }) => settle ?? [])
    return settles.length === 0 ? total <= 1 : total === 0 && settles.every(deletesLeased)
  }

  async write(outcomes: readonly Outcome[], options: object): Promise<readonly OutcomeResult[]> {
    const results = await this.#settle(outcomes, options)
    await this.#append(outcomes, results, options)
    const applied = outcomes.filter((_, index) => results[index] === APPLIED)
    const removed = applied.flatMap(({ remove }) => remove)
    if (removed.length > 0) await this.#payloads.deleteMany({ _id: { $in: removed } }, options)
    await upsert(
      this.#payloads,
      applied.flatMap(({ put }) => put.map(putOperation)),
      options,
    )
    return results
  }

  async #settle(outcomes: readonly Outcome[], options: object): Promise<OutcomeResult[]> {
    const settles = outcomes.flatMap(({ settle }) => settle ?? [])
    if (settles.length === 0) return outcomes.map(() => APPLIED)
    if (settles.every(deletesLeased) && this.isOneOperation(outcomes)) return this.#complete(settles, options)
    const held = await this.#held(settles, options)
    // A second settlement of the same event in one call finds it settled.
    const results = outcomes.map(({ settle }) => (!settle || held.delete(settle.id) ? APPLIED : LOST))
    const applied = outcomes.flatMap(({ settle }, index) =>
      settle && results[index] === APPLIED ? [settle] : [],
    )
    const gone = applied.filter(deletes).map(({ id }) => id)
    if (gone.length > 0) await this.#events.deleteMany({ _id: { $in: gone } }, options)
    await update(this.#events, applied.filter((settle) => !deletes(settle)).map(changeOperation), options)
    return results
  }

  /** Completes without a transaction: one fenced delete, and a look at what is left when it found less than it should. */
  async #complete(settles: readonly Settlement[], options: object): Promise<OutcomeResult[]> {
    const before = settles.length > 1 ? undefined : new Set(settles.map(({ id }) => id))
    const filter = heldFilter(settles, 'leased')
    const held = before ?? (await this.#ids(filter, options))
    const { deletedCount } = await this.#events.deleteMany(filter, options)
    if (deletedCount === settles.length) return settles.map(() => APPLIED)
    if (deletedCount === 0) return settles.map(() => LOST)
    return settles.map(({ id }) => (held.has(id) ? APPLIED : LOST))
  }

  /** Which settlements name an event as it is now. */
  async #held(settles: readonly Settlement[], options: object): Promise<Set<string>> {
    const ids = settles.map(({ id }) => id)
    const found = (await this.#events
      .find({ _id: { $in: ids } }, { ...options, projection: { attempt: 1, state: 1 } })
      .toArray()) as EventDocument[]
    const byId = new Map(found.map((event) => [event._id, event]))
    const held = settles.filter((settle) => {
      const event = byId.get(settle.id)
      return event?.attempt === settle.attempt && event.state === stateFor(settle)
    })
    return new Set(held.map(({ id }) => id))
  }

  async #ids(filter: object, options: object): Promise<Set<string>> {
    const found = (await this.#events
      .find(filter, { ...options, projection: { _id: 1 } })
      .toArray()) as EventDocument[]
    return new Set(found.map(({ _id }) => _id))
  }

  /** Appends what survived settling; an event whose id is taken turns its outcome into a duplicate. */
  async #append(outcomes: readonly Outcome[], results: OutcomeResult[], options: object): Promise<void> {
    const events = outcomes.flatMap(({ append }, index) => (results[index] === APPLIED ? append : []))
    const inserted = await upsert(this.#events, events.map(appendOperation), options)
    const taken = events.filter(({ fingerprint }, index) => fingerprint !== null && !inserted.has(index))
    if (taken.length === 0) return
    const first = await this.#fingerprints(taken, options)
    for (const [index, { append }] of outcomes.entries()) {
      const [event] = append
      if (event && results[index] === APPLIED && taken.includes(event)) {
        results[index] = { status: 'duplicate', fingerprint: first.get(event.id) ?? null }
      }
    }
  }

  async #fingerprints(events: readonly NewEvent[], options: object): Promise<Map<string, string | null>> {
    const ids = events.map(({ id }) => id)
    const found = (await this.#events
      .find({ _id: { $in: ids } }, { ...options, projection: { fingerprint: 1 } })
      .toArray()) as EventDocument[]
    return new Map(found.map(({ _id, fingerprint }) => [_id, fingerprint]))
  }
}

type Operation = { readonly filter: object; readonly update: object[] }

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

async function update(
  collection: MongoCollection,
  operations: readonly Operation[],
  options: object,
): Promise<void> {
  if (operations.length === 0) return
  await collection.bulkWrite(operations.map((operation) => ({ updateOne: operation })) as never[], options)
}

function deletesLeased(settle: Settlement): boolean {
  return settle.kind === 'complete' && deletes(settle)
}

function stateFor({ kind }: Settlement): 'leased' | 'dead' {
  return kind === 'revive' || kind === 'discard' ? 'dead' : 'leased'
}
