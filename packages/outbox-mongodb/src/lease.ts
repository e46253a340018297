import { randomUUID } from 'node:crypto'
import { findAll, type MongoCollection } from './client.ts'
import { hasCode } from './errors.ts'
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

/** Leases the oldest due events: one look, one update, one read. */
export async function leaseDue(
  events: MongoCollection,
  limit: number,
  leaseMs: number,
): Promise<readonly EventDocument[]> {
  const oldestFirst = { ...BY_OPEN, projection: { _id: 1 }, sort: { visible: 1, _id: 1 }, limit }
  const due = await findAll<Pick<EventDocument, '_id'>>(events, DUE, limit, oldestFirst)
  if (due.length === 0) return []
  const ids = due.map(({ _id }) => _id)
  const lease = randomUUID()
  if (!(await take(events, ids, lease, leaseMs, WHOLE_BATCH_MS))) {
    // What is held stands in the way of what is not: one by one, only the held ones are left out.
    await Promise.all(ids.map((id) => take(events, [id], lease, leaseMs, SINGLE_EVENT_MS)))
  }
  const taken = await findAll<EventDocument>(events, { _id: { $in: ids }, lease }, ids.length, BY_ID)
  const byId = new Map(taken.map((event) => [event._id, event]))
  return ids.flatMap((id) => byId.get(id) ?? [])
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
