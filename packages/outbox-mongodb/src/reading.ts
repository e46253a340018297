import type { DeadCursor, DeadPage, DeadQuery, StorageStats, StoredEvent, Waiting } from 'outbox-core'
import { aggregated, findAll, type MongoCollection } from './client.ts'
import { DUE } from './due.ts'
import { mapped } from './errors.ts'
import { HELD } from './lease.ts'
import { BY_DEATH, BY_ID, BY_KEY, BY_OPEN, type EventDocument, giveAddresses } from './schema.ts'

export async function listDead(
  events: MongoCollection,
  { limit, ids, type, after }: DeadQuery,
  session: object,
): Promise<DeadPage> {
  const filter = {
    state: 'dead',
    ...(ids && { _id: { $in: ids } }),
    ...(type !== undefined && { type: { $eq: type } }),
    ...(after && laterThan(after)),
  }
  const oldestFirst = { ...session, ...(ids ? BY_ID : BY_DEATH), sort: { died: 1, _id: 1 }, limit }
  const found = await mapped(findAll<EventDocument>(events, filter, limit, oldestFirst))
  const behind = await waitingBehind(events, found, session)
  const dead = found.map((event) => ({
    ...stored(event),
    error: event.error ?? '',
    diedAt: event.died?.getTime() ?? 0,
    waitingBehind: behind.get(event.key) ?? 0,
  }))
  const last = dead.at(-1)
  return { events: dead, ...(last && dead.length === limit && { next: [last.diedAt, last.id] }) }
}

/** How many events of their keys are not these: a dead letter that has a place is the first. */
async function waitingBehind(
  events: MongoCollection,
  dead: readonly EventDocument[],
  session: object,
): Promise<ReadonlyMap<string | undefined, number>> {
  const keys = dead.flatMap(({ key }) => key ?? [])
  if (keys.length === 0) return new Map()
  const pipeline = [{ $match: { key: { $in: keys } } }, { $group: { _id: '$key', count: { $sum: 1 } } }]
  const counting = aggregated<{ _id: string; count: number }>(events, pipeline, keys.length, {
    ...session,
    ...BY_KEY,
  })
  return new Map((await mapped(counting)).map(({ _id, count }) => [_id, count - 1]))
}

// More than there are; without a number the server sends 101 and waits to be asked for more.
const ALL_ADDRESSES = 100_000

export async function waiting(events: MongoCollection): Promise<readonly Waiting[]> {
  const pipeline = [
    { $match: { open: true } },
    { $sort: { open: 1, address: 1, visible: 1 } },
    { $group: { _id: '$address', visible: { $first: '$visible' } } },
    { $project: { late: { $subtract: ['$$NOW', '$visible'] } } },
  ]
  const looking = aggregated<{ _id: string | null; late: number }>(events, pipeline, ALL_ADDRESSES, BY_OPEN)
  const found = await mapped(looking)
  if (found.every(({ _id }) => _id !== null)) {
    return found.map(({ _id, late }) => ({ address: String(_id), oldestDueMs: late }))
  }
  // A process of the version before addresses has gone on writing.
  await mapped(giveAddresses(events))
  return waiting(events)
}

interface DueAt {
  readonly _id: string
  readonly count: number
  readonly late: number
}

export async function stats(events: MongoCollection, session: object): Promise<StorageStats> {
  const address = { $ifNull: ['$address', '$type'] }
  const late = { $max: { $subtract: ['$$NOW', '$visible'] } }
  const byAddress = [{ $match: DUE }, { $group: { _id: address, count: { $sum: 1 }, late } }]
  const isBlocked = { key: { $exists: true }, state: 'blocked' }
  // One after the other: a session takes no two at once.
  const due = await mapped(aggregated<DueAt>(events, byAddress, ALL_ADDRESSES, { ...session, ...BY_OPEN }))
  const leased = await mapped(events.countDocuments(HELD, { ...session, ...BY_OPEN }))
  const dead = await mapped(events.countDocuments({ state: 'dead' }, { ...session, ...BY_DEATH }))
  const blocked = await mapped(events.countDocuments(isBlocked, { ...session, ...BY_KEY }))
  return {
    due: due.reduce((sum, { count }) => sum + count, 0),
    dueByAddress: Object.fromEntries(due.map(({ _id, count }) => [_id, count])),
    leased,
    dead,
    blocked,
    oldestDueMs: due.length === 0 ? null : Math.max(...due.map((one) => one.late)),
  }
}

/** An event as core knows it. */
export function stored({
  _id,
  type,
  address,
  key,
  body,
  headers,
  created,
  attempt,
  uncounted,
}: EventDocument): StoredEvent {
  return {
    id: _id,
    type,
    address: address ?? type,
    key: key ?? null,
    body,
    headers: JSON.parse(headers),
    createdAt: created.getTime(),
    attempt,
    uncounted,
  }
}

function laterThan([diedAt, id]: DeadCursor): object {
  const died = new Date(diedAt)
  return { $or: [{ died: { $gt: died } }, { died, _id: { $gt: id } }] }
}
