import { assertKnownSchema, UnsupportedBackendError } from 'outbox-core'
import { findAll, type MongoCollection, type MongoDatabase } from './client.ts'
import { hasCode } from './errors.ts'

export interface CollectionNames {
  readonly events: string
  readonly payloads: string
}

/** The collection that notes the keys of events. */
export function keysOf({ events }: CollectionNames): string {
  return `${events}_keys`
}

/** An event's document. `open` is there while the event is waiting or leased: the due index has only those. */
export interface EventDocument {
  readonly _id: string
  readonly type: string
  /** Missing where a version before addresses has written it. */
  readonly address?: string
  /** With `place`, as long as it has one. */
  readonly key?: string
  /** Its place among the events of its key, of which the first may be taken. */
  readonly place?: number
  readonly body: string
  /** JSON, since names of headers may hold dots. */
  readonly headers: string
  readonly fingerprint: string | null
  readonly created: Date
  readonly visible: Date
  readonly attempt: number
  readonly uncounted: number
  readonly state: 'waiting' | 'leased' | 'done' | 'dead' | 'blocked'
  readonly open?: true
  /** Which lease took it, so that it can be found again. */
  readonly lease?: string
  readonly error?: string
  readonly died?: Date
}

interface Index {
  readonly name: string
  readonly key: object
  readonly partialFilterExpression?: object
  readonly expireAfterSeconds?: number
}

// With a field that is always the same: only an index that answers for it as well can be skipped through by address.
const OPEN: Index = {
  name: 'outbox_due',
  key: { open: 1, address: 1, visible: 1, _id: 1 },
  partialFilterExpression: { open: true },
}
const KEYED: Index = {
  name: 'outbox_keyed',
  key: { key: 1, place: 1 },
  partialFilterExpression: { key: { $exists: true } },
}
const DONE: Index = {
  name: 'outbox_done',
  key: { visible: 1 },
  partialFilterExpression: { state: 'done' },
}
const DEAD: Index = {
  name: 'outbox_dead',
  key: { died: 1, _id: 1 },
  partialFilterExpression: { state: 'dead' },
}
const EXPIRES: Index = { name: 'outbox_expires', key: { expires_at: 1 }, expireAfterSeconds: 0 }

// A planner that chose by itself would walk a backlog to find a few ids, or all ids to find what is due. Whatever is not
// by one exact `_id` alone names its index.
export const BY_ID = { hint: { _id: 1 } } as const
export const BY_OPEN: { readonly hint: string } = { hint: OPEN.name }
export const BY_KEY: { readonly hint: string } = { hint: KEYED.name }
export const BY_RETENTION: { readonly hint: string } = { hint: DONE.name }
export const BY_DEATH: { readonly hint: string } = { hint: DEAD.name }
export const BY_EXPIRY: { readonly hint: string } = { hint: EXPIRES.name }

/** Of collections and indexes as they are here. Raised when a worker of the version before could no longer find its way. */
const VERSION = 2
const NOTE = 'schema'

/** Without it a worker of a version before keys takes nothing more: it would settle events and leave their keys held. */
const BEFORE_ADDRESSES = 'outbox_open'

const NAMESPACE_NOT_FOUND = 26
const INDEX_NOT_FOUND = 27
const NAMESPACE_EXISTS = 48
const WIRE_VERSION_5_0 = 13
const INDEX_CONFLICTS = [85, 86]

/**
 * Creates collections and indexes that are missing; where nothing is, it only looks, and needs no right to create.
 *
 * @throws UnsupportedBackendError for a standalone server, an old one, or an index in the way; NewerSchemaError
 */
export async function createCollections(db: MongoDatabase, names: CollectionNames): Promise<void> {
  await assertSupported(db)
  const notes = db.collection(`${names.events}_notes`)
  const [note] = await findAll<{ version?: unknown }>(notes, { _id: NOTE }, 1)
  if (note) assertKnownSchema(`collection "${names.events}"`, Number(note.version), VERSION)
  await createCollection(db, names.events, [OPEN, KEYED, DONE, DEAD])
  await createCollection(db, names.payloads, [EXPIRES])
  await createCollection(db, keysOf(names), [])
  if (note?.version === VERSION) return
  await giveAddresses(db.collection(names.events))
  // Another process may be of a newer version and quicker.
  const noted = { version: { $max: ['$version', VERSION] } }
  await notes.updateOne({ _id: NOTE }, [{ $set: noted }], { writeConcern: { w: 'majority' }, upsert: true })
}

/** Gives open events the address that they would have had: those of a version before addresses. */
export async function giveAddresses(events: MongoCollection): Promise<void> {
  const without = { open: true, address: null }
  const options = { ...BY_OPEN, writeConcern: { w: 'majority' } }
  await events.updateMany(without, [{ $set: { address: '$type' } }], options)
}

async function createCollection(db: MongoDatabase, name: string, indexes: readonly Index[]): Promise<void> {
  const found = await indexesOf(db, name)
  if (!found) await createUnlessThere(db, name)
  const there = new Map(found?.map((index) => [index.name, index]))
  for (const index of indexes) {
    const same = there.get(index.name)
    if (same && definition(same) !== definition(index)) throw inTheWay(name, index)
  }
  const missing = indexes.filter((index) => !there.has(index.name))
  for (const { key, ...options } of missing) {
    try {
      await db.collection(name).createIndex(key as never, options)
    } catch (cause) {
      if (!INDEX_CONFLICTS.some((code) => hasCode(cause, code))) throw cause
      throw inTheWay(name, options, cause)
    }
  }
  if (there.has(BEFORE_ADDRESSES)) await dropUnlessGone(db.collection(name), BEFORE_ADDRESSES)
}

/** @returns undefined where there is no such collection */
async function indexesOf(db: MongoDatabase, name: string): Promise<readonly Index[] | undefined> {
  try {
    return (await db.collection(name).listIndexes().toArray()) as Index[]
  } catch (error) {
    if (hasCode(error, NAMESPACE_NOT_FOUND)) return undefined
    throw error
  }
}

async function createUnlessThere(db: MongoDatabase, name: string): Promise<void> {
  await db.createCollection(name).catch((error) => {
    if (!hasCode(error, NAMESPACE_EXISTS)) throw error
  })
}

/** Another process may be quicker. */
async function dropUnlessGone(collection: MongoCollection, index: string): Promise<void> {
  await collection.dropIndex(index).catch((error) => {
    if (!hasCode(error, INDEX_NOT_FOUND)) throw error
  })
}

/** All that makes one index another: also what nobody here would set, such as `hidden`. */
function definition(index: object): string {
  const { v: _, ns: __, key, ...rest } = index as { v?: unknown; ns?: unknown; key: object }
  const options = Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1))
  return JSON.stringify([key, options])
}

function inTheWay(
  collection: string,
  { name }: Pick<Index, 'name'>,
  cause?: unknown,
): UnsupportedBackendError {
  return new UnsupportedBackendError(
    `collection "${collection}" has another index in the way of "${name}"; drop it and initialize again`,
    { cause },
  )
}

async function assertSupported(db: MongoDatabase): Promise<void> {
  // `hello` tells all of it, and is allowed to clients of the strict Stable API.
  const { setName, msg, maxWireVersion } = await db.command({ hello: 1 })
  if (setName === undefined && msg !== 'isdbgrid') {
    throw new UnsupportedBackendError(
      'this MongoDB server is standalone, and only a replica set has transactions; start it with --replSet rs0 and run ' +
        "mongosh --eval 'rs.initiate()'",
    )
  }
  if (Number(maxWireVersion) < WIRE_VERSION_5_0) {
    throw new UnsupportedBackendError(
      `this MongoDB server is older than 5.0 (wire version ${maxWireVersion}); upgrade it`,
    )
  }
}
