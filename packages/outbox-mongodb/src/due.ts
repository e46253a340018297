import type { LeaseRequest } from 'outbox-core'
import { aggregated, findAll, type MongoCollection } from './client.ts'
import { BY_OPEN, type EventDocument } from './schema.ts'

/** Events that are due by the server's clock. */
export const DUE: object = { open: true, $expr: { $lte: ['$visible', '$$NOW'] } }

type Due = Pick<EventDocument, '_id' | 'address' | 'visible'>

const OLDEST_FIRST = { visible: 1, _id: 1 }
const ID = { _id: 1 }
const TO_CHOOSE_BY = { address: 1, visible: 1 }

// The server merges the ranges of so many addresses in order of time (internalQueryMaxScansToExplode); of more it would
// sort everything that is due.
const MOST_RANGES = 200

/** Finds what a lease takes. */
export class DueEvents {
  readonly #events: MongoCollection
  // Whether an address had more than its share the last time.
  #isShared = false

  constructor(events: MongoCollection) {
    this.#events = events
  }

  /** Their ids, oldest first. */
  async ids(request: LeaseRequest): Promise<readonly string[]> {
    const addresses = request.addresses.filter(({ limit }) => limit > 0)
    const groups = Array.from({ length: Math.ceil(addresses.length / MOST_RANGES) }, (_, n) =>
      addresses.slice(n * MOST_RANGES, (n + 1) * MOST_RANGES),
    )
    const found = await Promise.all(
      groups.map((group) => this.#of({ ...request, addresses: group }, groups.length)),
    )
    const due = found.length === 1 ? found.flat() : found.flat().sort(byAge).slice(0, request.limit)
    return due.map(({ _id }) => _id)
  }

  async #of(request: LeaseRequest, groups: number): Promise<readonly Due[]> {
    if (isUnshared(request)) return dueOfAll(this.#events, request, groups === 1 ? ID : TO_CHOOSE_BY)
    if (!this.#isShared) {
      const found = await dueOfAll(this.#events, request, TO_CHOOSE_BY)
      if (withinShares(found, request).length === found.length) return found
    }
    const found = await dueOfEach(this.#events, request)
    this.#isShared = fillsShare(found, request)
    return found
  }
}

/** Those of them that no share leaves out. */
export function withinShares<Event extends Pick<EventDocument, 'address'>>(
  events: readonly Event[],
  { limit, addresses }: LeaseRequest,
): readonly Event[] {
  const left = new Map(addresses.map(({ address, limit: share }) => [address, share]))
  const within = events.filter((event) => {
    const address = event.address ?? ''
    const share = left.get(address) ?? 0
    left.set(address, share - 1)
    return share > 0
  })
  return within.slice(0, limit)
}

/** Whether no address can have more than its share. */
function isUnshared({ limit, addresses }: LeaseRequest): boolean {
  return addresses.length === 1 || addresses.every(({ limit: share }) => share >= limit)
}

/** The oldest of all addresses, whatever the share of each: their ranges, merged, can't be told where to stop. */
async function dueOfAll(
  events: MongoCollection,
  { limit, addresses }: LeaseRequest,
  projection: object,
): Promise<readonly Due[]> {
  const filter = { address: { $in: addresses.map(({ address }) => address) }, ...DUE }
  const most = Math.min(
    limit,
    addresses.reduce((sum, { limit: share }) => sum + share, 0),
  )
  const options = { ...BY_OPEN, projection, sort: OLDEST_FIRST, limit: most }
  return findAll<Due>(events, filter, most, options)
}

/** Of each address its share, and of these the oldest: many times as much work for the server as one walk. */
async function dueOfEach(
  events: MongoCollection,
  { limit, addresses }: LeaseRequest,
): Promise<readonly Due[]> {
  const [first = [], ...others] = addresses.map(({ address, limit: share }) => [
    { $match: { address, ...DUE } },
    { $sort: OLDEST_FIRST },
    { $limit: share },
    { $project: TO_CHOOSE_BY },
  ])
  const pipeline = [
    ...first,
    ...others.map((branch) => ({ $unionWith: { coll: events.collectionName, pipeline: branch } })),
    { $sort: OLDEST_FIRST },
    { $limit: limit },
  ]
  return aggregated<Due>(events, pipeline, limit, BY_OPEN)
}

function fillsShare(found: readonly Due[], { addresses }: LeaseRequest): boolean {
  const counts = Map.groupBy(found, ({ address }) => address)
  return addresses.some(({ address, limit }) => counts.get(address)?.length === limit)
}

function byAge(one: Due, other: Due): number {
  return Number(one.visible) - Number(other.visible) || (one._id < other._id ? -1 : 1)
}
