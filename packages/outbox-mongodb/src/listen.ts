import { setTimeout as sleep } from 'node:timers/promises'
import type { MongoClientLike, MongoDatabase, MongoSession } from './client.ts'
import { isPassing } from './errors.ts'

// Long enough not to press a server that is down; polling goes on meanwhile.
const REOPEN_MS = 1_000

// Left to itself a server answers every second, whether there was a change or not.
const AWAIT_AT_MOST_MS = 30_000

// A server that is down must not hold up who stops.
const END_WITHIN_MS = 1_000

// What can be taken now and could not before: inserted so, the next of its key, or revived.
const OPENED = {
  $or: [
    { operationType: 'insert', 'fullDocument.open': true },
    { operationType: 'update', 'updateDescription.updatedFields.open': true },
  ],
}

// Bodies needn't travel to everyone who is woken; `_id` is what the server resumes by, and it insists on it.
const OPENINGS = [{ $changeStream: {} }, { $match: OPENED }, { $project: { _id: 1 } }]

interface Cursor {
  /** A 64-bit integer of BSON, as the server wants it back. */
  readonly id: unknown
  /** The server goes on with a cursor only in the session it was opened in. */
  readonly session: MongoSession
}

interface Batch {
  readonly id: unknown
  readonly firstBatch?: readonly unknown[]
  readonly nextBatch?: readonly unknown[]
}

/**
 * Calls `wake` whenever another event may be taken. By the server's commands: the driver's own stream looks for a server again
 * in the background, for half a minute, and goes on then even when it was closed meanwhile.
 */
export class OpenWatch {
  readonly #client: MongoClientLike<MongoSession>
  readonly #db: MongoDatabase
  readonly #collection: string
  readonly #wake: () => void
  readonly #ending = new AbortController()
  #cursor: Cursor | undefined
  #following: Promise<void> = Promise.resolve()

  constructor(
    client: MongoClientLike<MongoSession>,
    db: MongoDatabase,
    collection: string,
    wake: () => void,
  ) {
    this.#client = client
    this.#db = db
    this.#collection = collection
    this.#wake = wake
  }

  /** @throws what the server refuses for good; a server that is away is waited for */
  async start(): Promise<void> {
    await this.#open().catch((error: unknown) => {
      if (!isPassing(error)) throw error
    })
    this.#following = this.#follow()
  }

  /** The stream's end. Whatever is under way then leaves nothing behind. */
  async end(): Promise<void> {
    this.#ending.abort()
    const given = new AbortController()
    const ended = Promise.all([this.#leave(), this.#following])
    await Promise.race([ended, sleep(END_WITHIN_MS, undefined, { signal: given.signal }).catch(() => {})])
    given.abort()
  }

  /** One stream after the other, until the end. */
  async #follow(): Promise<void> {
    while (!this.#ending.signal.aborted) {
      try {
        if (!this.#cursor) {
          await this.#open()
          // For what has come while there was none.
          this.#wake()
        }
        while (this.#cursor) await this.#next(this.#cursor)
      } catch {
        // Not waited for: as long as the server is away there is no answer.
        void this.#leave()
      }
      await sleep(REOPEN_MS, undefined, { signal: this.#ending.signal, ref: false }).catch(() => {})
    }
  }

  async #open(): Promise<void> {
    const session = this.#client.startSession()
    try {
      const command = { aggregate: this.#collection, pipeline: OPENINGS, cursor: {} }
      const { id } = await this.#batch(command, session, {})
      this.#cursor = { id, session }
      if (this.#ending.signal.aborted) await this.#leave()
    } catch (error) {
      await session.endSession()
      throw error
    }
  }

  /** Waits for the next one. The server ends a stream whose collection was dropped. */
  async #next({ id, session }: Cursor): Promise<void> {
    const maxTimeMS = awaitMs(this.#client.options?.socketTimeoutMS)
    // An answer that nobody waits for any more must not hold up the end.
    const { signal } = this.#ending
    const command = { getMore: id, collection: this.#collection, maxTimeMS }
    const batch = await this.#batch(command, session, { signal })
    if (batch.nextBatch?.length) this.#wake()
    if (String(batch.id) === '0') await this.#leave()
  }

  async #batch(command: object, session: MongoSession, more: object): Promise<Batch> {
    // A limit for every operation is none for one that waits.
    const unlimited = this.#client.options?.timeoutMS ? { timeoutMS: 0 } : {}
    const options = { ...unlimited, ...more, session, promoteLongs: false }
    const { cursor } = await this.#db.command(command, options)
    return cursor as Batch
  }

  async #leave(): Promise<void> {
    const cursor = this.#cursor
    if (!cursor) return
    this.#cursor = undefined
    const kill = { killCursors: this.#collection, cursors: [cursor.id] }
    if (String(cursor.id) !== '0') await this.#db.command(kill).catch(() => {})
    await cursor.session.endSession()
  }
}

// An answer that comes when the client has stopped waiting is a broken connection.
function awaitMs(socketTimeoutMS: number | undefined): number {
  return Math.min(AWAIT_AT_MOST_MS, Math.ceil((socketTimeoutMS || Number.POSITIVE_INFINITY) / 2))
}
