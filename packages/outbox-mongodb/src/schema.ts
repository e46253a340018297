import { UnsupportedBackendError } from 'outbox-core'
import type { MongoDatabase } from './client.ts'
import { hasCode } from './errors.ts'

export interface CollectionNames {
  readonly events: string
  readonly payloads: string
}

/** An event's document. `open` is there while the event is waiting or leased: the due index has only those. */
export interface EventDocument {
  readonly _id: string
  readonly type: string
  readonly body: string
  /** JSON, since names of headers may hold dots. */
  readonly headers: string
  readonly fingerprint: string | null
  readonly created: Date
  readonly visible: Date
  readonly attempt: number
  readonly uncounted: number
  readonly state: 'waiting' | 'leased' | 'done' | 'dead'
  readonly open?: true
  /** Which lease took it, so that it can be found again. */
  readonly lease?: string
  readonly error?: string
  readonly died?: Date
}

const NAMESPACE_EXISTS = 48
const WIRE_VERSION_5_0 = 13
const INDEX_CONFLICTS = [85, 86]

/**
 * Creates collections and indexes.
 *
 * @throws UnsupportedBackendError for a standalone server, an old one, or an index in the way
 */
export async function createCollections(db: MongoDatabase, names: CollectionNames): Promise<void> {
  await assertSupported(db)
  for (const name of [names.events, names.payloads]) {
    await db.createCollection(name).catch((error) => {
      if (!hasCode(error, NAMESPACE_EXISTS)) throw error
    })
  }
  const open = { partialFilterExpression: { open: true } }
  await createIndex(db, names.events, 'outbox_open', { visible: 1, _id: 1 }, open)
  await createIndex(
    db,
    names.events,
    'outbox_done',
    { visible: 1 },
    { partialFilterExpression: { state: 'done' } },
  )
  await createIndex(
    db,
    names.events,
    'outbox_dead',
    { died: 1, _id: 1 },
    { partialFilterExpression: { state: 'dead' } },
  )
  await createIndex(db, names.payloads, 'outbox_expires', { expires_at: 1 }, { expireAfterSeconds: 0 })
}

async function createIndex(
  db: MongoDatabase,
  collection: string,
  name: string,
  keys: object,
  options: object,
): Promise<void> {
  try {
    await db.collection(collection).createIndex(keys as never, { ...options, name })
  } catch (cause) {
    if (!INDEX_CONFLICTS.some((code) => hasCode(cause, code))) throw cause
    throw new UnsupportedBackendError(
      `collection "${collection}" has another index in the way of "${name}"; drop it and initialize again`,
      { cause },
    )
  }
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
