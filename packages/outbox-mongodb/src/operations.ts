import {
  type Change,
  changeBy,
  type Lease,
  type NewEvent,
  type PayloadRecord,
  type Settlement,
  type SettlementOf,
  type When,
} from 'outbox-core'

/** A statement of a bulk write. */
export type Operation = { readonly filter: object; readonly update: object[] }

/** A statement on what is completed with others: without an update it deletes. */
interface BehindOperation {
  readonly filter: object
  readonly update?: object[]
}

/** Events that are held with exactly these attempt numbers. */
export function heldFilter(leases: readonly Lease[], state: 'leased' | 'dead'): object {
  const byAttempt = Map.groupBy(leases, ({ attempt }) => attempt)
  const groups = [...byAttempt].map(([attempt, group]) => ({
    _id: { $in: group.map(({ id }) => id) },
    attempt,
    state,
  }))
  return groups.length === 1 && groups[0] ? groups[0] : { $or: groups }
}

/** A place in a key, and whether another one is before it. */
export interface Turn {
  readonly place: number
  readonly blocked: boolean
}

/** Inserts an event unless its id is taken; by an update, since only updates know the server's clock. */
export function appendOperation(
  { id, type, address, key, body, headers, fingerprint, due, leased }: NewEvent,
  turn?: Turn,
): Operation {
  const event = {
    type: { $literal: type },
    address: { $literal: address },
    ...(turn && { key: { $literal: key }, place: { $literal: turn.place } }),
    body: { $literal: body },
    headers: { $literal: JSON.stringify(headers) },
    fingerprint: { $literal: fingerprint },
    created: '$$NOW',
    visible: moment(due),
    attempt: leased ? 1 : 0,
    uncounted: 0,
    ...(turn?.blocked ? { state: 'blocked' } : { state: leased ? 'leased' : 'waiting', open: true }),
  }
  const fresh = { $mergeObjects: ['$$ROOT', event] }
  return {
    filter: { _id: id },
    update: [{ $replaceWith: { $cond: [{ $eq: [{ $type: '$created' }, 'missing'] }, fresh, '$$ROOT'] } }],
  }
}

/** Stores a payload, replacing what is there. */
export function putOperation({ id, data, expires }: PayloadRecord): Operation {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  return {
    filter: { _id: id },
    update: [{ $set: { data: { $literal: bytes }, expires_at: moment(expires) } }],
  }
}

/** Deletes the events of settlements that do, one statement for each state they must be in. */
export function deleteFilters(settles: readonly Settlement[]): object[] {
  const deleting = settles.filter((settle) => changeBy(settle).to === 'deleted')
  return [...Map.groupBy(deleting, (settle) => changeBy(settle).from)].map(([state, group]) =>
    heldFilter(group, state),
  )
}

/** Changes the events of the other settlements, one statement for each different change. */
export function changeOperations(settles: readonly Settlement[]): Operation[] {
  const kept = settles.map((settle) => ({ settle, change: changeBy(settle) }))
  const groups = Map.groupBy(
    kept.filter(({ change }) => change.to !== 'deleted'),
    ({ change }) => JSON.stringify(change),
  )
  return [...groups.values()].flatMap((group) => {
    const [first] = group
    if (!first) return []
    const { change } = first
    return {
      filter: heldFilter(
        group.map(({ settle }) => settle),
        change.from,
      ),
      update: updateBy(change),
    }
  })
}

/** Lets a blocked event be taken, once it is due. */
export const UNBLOCK: object[] = [
  { $set: { state: 'waiting', open: true, visible: { $max: ['$visible', '$$NOW'] } } },
]

function updateBy({ to, inMs: delayMs, error, pardon, yields }: Change): object[] {
  const set = {
    state: to,
    ...(to === 'dead' ? { died: '$$NOW' } : { visible: inMs(delayMs) }),
    ...(to === 'waiting' && { open: true }),
    ...(error !== null && { error: { $literal: error } }),
    ...(pardon !== 'none' && { uncounted: pardon === 'all' ? '$attempt' : { $add: ['$uncounted', 1] } }),
  }
  // What is neither waiting nor leased leaves the due index.
  const left = [...(to === 'waiting' ? [] : ['open']), ...(yields ? ['key', 'place'] : [])]
  return [{ $set: set }, ...(left.length > 0 ? [{ $unset: left }] : [])]
}

/** Completes what waits right behind the events of settlements, one statement for each different retention. */
export function completionsBehind(settles: readonly Settlement[]): readonly BehindOperation[] {
  const completions = settles.filter((settle) => settle.kind === 'complete' && settle.also?.length)
  const groups = Map.groupBy(completions as readonly SettlementOf<'complete'>[], ({ keepMs }) => keepMs)
  return [...groups.values()].map((group) => {
    const [first] = group as [SettlementOf<'complete'>]
    const change = changeBy(first)
    const filter = { _id: { $in: group.flatMap(({ also = [] }) => also) }, state: 'blocked' }
    return change.to === 'deleted' ? { filter } : { filter, update: updateBy(change) }
  })
}

/** Leases the events that settlements take after they were let go on, one statement for each length of a lease. */
export function takeOperations(settles: readonly Settlement[]): Operation[] {
  const takes = settles.flatMap((settle) => (settle.kind === 'complete' && settle.take) || [])
  return [...Map.groupBy(takes, ({ leaseMs }) => leaseMs)].map(([leaseMs, group]) => ({
    filter: { _id: { $in: group.map(({ id }) => id) }, state: 'waiting' },
    update: [{ $set: { state: 'leased', attempt: { $add: ['$attempt', 1] }, visible: inMs(leaseMs) } }],
  }))
}

/** When something is due or expires, by the server's clock unless it is a fixed moment. */
function moment(when: When): object {
  return 'at' in when ? { $literal: new Date(when.at) } : inMs(when.inMs)
}

export function inMs(ms: number): object {
  return { $add: ['$$NOW', ms] }
}
