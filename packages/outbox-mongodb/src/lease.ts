import { randomUUID } from 'node:crypto'
import { findAll, type MongoCollection } from './client.ts'
import { hasCode, isPassing } from './errors.ts'
import { inMs } from './operations.ts'
import { BY_ID, BY_OPEN, type EventDocument } from './schema.ts'

/** Events that are due by the server's clock. */
export const DUE: object = { open: true, $expr: { $lte: ['$visible', '$$NOW'] } }

/** Events that a worker holds by the server's clock. */
export const HELD: object = { open: true, state: 'leased', $expr: { $gt: ['$visible', '$$NOW'] } }

// Far more than a batch takes. What is not through by then waits for a document that another transaction holds: one
// of a process that was killed keeps it for a minute, until the server gives that transaction up.
const WHOLE_BATCH_MS = 1_000
const SINGLE_EVENT_MS = 100

const MAX_TIME_EXPIRED = 50

/** Events that an update may have leased whose answer, or what was read after it, did not come through. */
interface Unread {
  readonly ids: readonly string[]
  readonly lease: string
}

/** Leases the oldest due events: one look, one update, one read. */
export class Leases {
  readonly #events: MongoCollection
  readonly #unread: Unread[] = []

  constructor(events: MongoCollection) {
    this.#events = events
  }

  async take(limit: number, leaseMs: number): Promise<readonly EventDocument[]> {
    const unread = this.#unread.shift()
    // Nobody works on them, and nobody else could until their lease runs out.
    const found = unread ? await this.#read(unread, HELD, limit, () => this.#keep(unread, leaseMs)) : []
    return found.length > 0 ? found : this.#takeDue(limit, leaseMs)
  }

  async #takeDue(limit: number, leaseMs: number): Promise<readonly EventDocument[]> {
    const oldestFirst = { ...BY_OPEN, projection: { _id: 1 }, sort: { visible: 1, _id: 1 }, limit }
    const due = await findAll<Pick<EventDocument, '_id'>>(this.#events, DUE, limit, oldestFirst)
    if (due.length === 0) return []
    const ids = due.map(({ _id }) => _id)
    const lease = randomUUID()
    return this.#read({ ids, lease }, {}, limit, () => takeAll(this.#events, ids, lease, leaseMs))
  }

  /** What a lease has after `update`. The driver repeats no update of many; this one may be, since it names its lease. */
  async #read(
    { ids, lease }: Unread,
    only: object,
    limit: number,
    update: () => Promise<unknown>,
  ): Promise<readonly EventDocument[]> {
    try {
      await update().catch((error: unknown) => {
        if (!isPassing(error)) throw error
        return update()
      })
      const filter = { _id: { $in: ids }, lease, ...only }
      const taken = await findAll<EventDocument>(this.#events, filter, ids.length, BY_ID)
      const byId = new Map(taken.map((event) => [event._id, event]))
      const inOrder = ids.flatMap((id) => byId.get(id) ?? [])
      const tooMany = inOrder.slice(limit)
      if (tooMany.length > 0) this.#unread.push({ ids: tooMany.map(({ _id }) => _id), lease })
      return inOrder.slice(0, limit)
    } catch (error) {
      this.#unread.push({ ids, lease })
      throw error
    }
  }

  async #keep({ ids, lease }: Unread, leaseMs: number): Promise<void> {
    const options = { ...BY_ID, writeConcern: { w: 'majority' } }
    await this.#events.updateMany(
      { _id: { $in: ids }, lease, ...HELD },
      [{ $set: { visible: inMs(leaseMs) } }],
      options,
    )
  }
}

async function takeAll(
  events: MongoCollection,
  ids: readonly string[],
  lease: string,
  leaseMs: number,
): Promise<void> {
  if (await take(events, ids, lease, leaseMs, WHOLE_BATCH_MS)) return
  // What is held stands in the way of what is not: one by one, only the held ones are left out.
  await Promise.all(ids.map((id) => take(events, [id], lease, leaseMs, SINGLE_EVENT_MS)))
}

/** Whether all of them could be updated in time. */
async function take(
  events: MongoCollection,
  ids: readonly string[],
  lease: string,
  leaseMs: number,
  maxTimeMS: number,
): Promise<boolean> {
  const taken = { state: 'leased', attempt: { $add: ['$attempt', 1] }, visible: inMs(leaseMs), lease }
  const options = { ...BY_ID, writeConcern: { w: 'majority' }, maxTimeMS }
  try {
    await events.updateMany({ _id: { $in: ids }, ...DUE }, [{ $set: taken }], options)
    return true
  } catch (error) {
    if (hasCode(error, MAX_TIME_EXPIRED)) return false
    throw error
  }
}
