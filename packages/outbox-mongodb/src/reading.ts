import type { DeadCursor, DeadPage, DeadQuery, StorageStats, StoredEvent } from 'outbox-core'
import { findAll, type MongoCollection } from './client.ts'
import { mapped } from './errors.ts'
import { DUE, HELD } from './lease.ts'
import { BY_DEATH, BY_ID, BY_OPEN, type EventDocument } from './schema.ts'

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
  const dead = found.map((event) => ({
    ...stored(event),
    error: event.error ?? '',
    diedAt: event.died?.getTime() ?? 0,
  }))
  const last = dead.at(-1)
  return { events: dead, ...(last && dead.length === limit && { next: [last.diedAt, last.id] }) }
}

export async function stats(events: MongoCollection, session: object): Promise<StorageStats> {
  const oldestFirst = {
    ...session,
    ...BY_OPEN,
    sort: { visible: 1, _id: 1 },
    limit: 1,
    projection: { late: { $subtract: ['$$NOW', '$visible'] } },
  }
  // One after the other: a session takes no two at once.
  const due = await mapped(events.countDocuments(DUE, { ...session, ...BY_OPEN }))
  const leased = await mapped(events.countDocuments(HELD, { ...session, ...BY_OPEN }))
  const dead = await mapped(events.countDocuments({ state: 'dead' }, { ...session, ...BY_DEATH }))
  const [oldest] = await mapped(findAll<{ late: number }>(events, DUE, 1, oldestFirst))
  return { due, leased, dead, oldestDueMs: oldest?.late ?? null }
}

/** An event as core knows it. */
export function stored({
  _id,
  type,
  body,
  headers,
  created,
  attempt,
  uncounted,
}: EventDocument): StoredEvent {
  return {
    id: _id,
    type,
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
