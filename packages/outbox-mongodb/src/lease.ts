import { randomUUID } from 'node:crypto'
import type { LeaseRequest } from 'outbox-core'
import { findAll, type MongoCollection } from './client.ts'
import { DUE, DueEvents, withinShares } from './due.ts'
import { hasCode, isPassing } from './errors.ts'
import type { Keys } from './keys.ts'
import { inMs } from './operations.ts'
import { BY_ID, type EventDocument } from './schema.ts'

/** Events that a worker holds by the server's clock. */
export const HELD: object = { open: true, state: 'leased', $expr: { $gt: ['$visible', '$$NOW'] } }

// Far more than a batch takes. What is not through by then waits for a document that another transaction holds: one
// of a process that was killed keeps it for a minute, until the server gives that transaction up.
const WHOLE_BATCH_MS = 1_000
const SINGLE_EVENT_MS = 100

const MOST_KEYS = 100

const MAX_TIME_EXPIRED = 50

/** Events that an update may have leased whose answer, or what was read after it, did not come through. */
interface Unread {
  readonly ids: readonly string[]
  readonly lease: string
}

/** Leases the oldest due events: one look, one update, one read. */
export class Leases {
  readonly #events: MongoCollection
  readonly #keys: Keys
  readonly #due: DueEvents
  readonly #unread: Unread[] = []

  constructor(events: MongoCollection, keys: Keys) {
    this.#events = events
    this.#keys = keys
    this.#due = new DueEvents(events)
  }

  async take(request: LeaseRequest): Promise<readonly EventDocument[]> {
    const unread = this.#unread.shift()
    // Nobody works on them, and nobody else could until their lease runs out.
    const found = unread ? await this.#read(unread, HELD, request, () => this.#keep(unread, request)) : []
    return found.length > 0 ? found : this.#takeDue(request)
  }

  /**
   * What waits behind leased events in their keys, by key, as far as a worker can handle it and it is due. Bounded by as
   * many keys as one statement looks at, since nobody has to be told.
   */
  async behind(
    events: readonly EventDocument[],
    { behind = 0, addresses, leaseMs }: LeaseRequest,
  ): Promise<ReadonlyMap<string | undefined, readonly EventDocument[]>> {
    const keys = events.flatMap(({ key }) => key ?? []).slice(0, MOST_KEYS)
    if (behind < 1 || keys.length === 0) return new Map()
    const asked = new Set(addresses.map(({ address }) => address))
    // When they were leased, by the database's clock.
    const now = Math.min(...events.map(({ visible }) => visible.getTime())) - leaseMs
    // Their leases are held already, and would run out unused.
    const found = await this.#keys.behind(keys, behind).catch(() => new Map<string, EventDocument[]>())
    return new Map(
      [...found].map(([key, next]) => {
        const other = next.findIndex(
          ({ address = '', visible }) => !asked.has(address) || visible.getTime() > now,
        )
        return [key, other === -1 ? next : next.slice(0, other)]
      }),
    )
  }

  async #takeDue(request: LeaseRequest): Promise<readonly EventDocument[]> {
    const ids = await this.#due.ids(request)
    if (ids.length === 0) return []
    const lease = randomUUID()
    const { leaseMs } = request
    return this.#read({ ids, lease }, {}, request, () => takeAll(this.#events, ids, lease, leaseMs))
  }

  /** What a lease has after `update`. The driver repeats no update of many; this one may be, since it names its lease. */
  async #read(
    { ids, lease }: Unread,
    only: object,
    request: LeaseRequest,
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
      const wanted = withinShares(inOrder, request)
      if (wanted.length < inOrder.length) {
        const left = inOrder.filter((event) => !wanted.includes(event))
        this.#unread.push({ ids: left.map(({ _id }) => _id), lease })
      }
      return wanted
    } catch (error) {
      this.#unread.push({ ids, lease })
      throw error
    }
  }

  async #keep({ ids, lease }: Unread, { leaseMs, addresses }: LeaseRequest): Promise<void> {
    const wanted = { address: { $in: addresses.map(({ address }) => address) }, ...HELD }
    await this.#events.updateMany(
      { _id: { $in: ids }, lease, ...wanted },
      [{ $set: { visible: inMs(leaseMs) } }],
      { ...BY_ID, writeConcern: { w: 'majority' } },
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
