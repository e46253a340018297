import { LATEST_MS } from '../duration.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import { type Duration, durationMs } from '../options.ts'
import type { When } from '../storage.ts'
import { COMPRESSED_AT_ONCE_BYTES } from './payload-compression.ts'
import { InvalidClaimIdError, InvalidExpiryError } from './payload-errors.ts'
import type { EncryptionOptions, PayloadCodecOptions } from './payload-frame.ts'
import { PayloadStore } from './payload-store.ts'

/**
 * Where payloads live that are too large for their events. Implement these five to keep them elsewhere (an object
 * store, say): they are then put before the event is written and deleted after the write that supersedes them, so
 * that the worst case is an orphan which its time to live removes. Only a store from `outbox.sagaStore()` gives all
 * or none.
 */
export interface SagaStoreAdapter {
  /** Creates what is missing. Idempotent. */
  initialize(): Promise<void>
  /** Stores bytes under a claim id until `expiresAt`; putting an id again replaces both. */
  put(id: string, data: Uint8Array, expiresAt: Date): Promise<void>
  /** The bytes, or `undefined` when there are none or they have expired. */
  get(id: string): Promise<Uint8Array | undefined>
  delete(id: string): Promise<void>
  /** Removes what has expired; returns how many payloads that were. */
  cleanup(): Promise<number>
}

export interface SagaStoreOptions {
  /** @default 'zstd' (level 1) */
  readonly compression?: PayloadCodecOptions['compression']
  /** Encrypts payloads with AES-256-GCM. @default none */
  readonly encryption?: EncryptionOptions
  /**
   * Largest payload, in bytes before compression.
   * @default 16777216, or the database's own limit where that is lower
   */
  readonly maxPayloadBytes?: number
}

/** What a call of the saga store may say beside its arguments. */
export interface SagaStoreCall<Tx = unknown> {
  /** The transaction to take part in, instead of the ambient one. */
  readonly transaction?: Tx
  /** For log lines. */
  readonly routingSlipId?: string
}

const CLEANUP_BATCH = 1000

/** What stands behind the face of a saga store; for the rooms of core only. */
export let payloadsOf: (store: OutboxSagaStore) => PayloadStore

/**
 * The saga store in an outbox's own database. Inside `outbox.transaction` (or with `{ transaction }`) its writes
 * commit and roll back with everything else; outside they are writes of their own. Made by `outbox.sagaStore(ttl)`.
 */
export class OutboxSagaStore implements SagaStoreAdapter {
  /** How long a payload lives after it was put, in milliseconds. */
  readonly ttlMs: number
  readonly #core: OutboxCore
  readonly #payloads: PayloadStore

  static {
    payloadsOf = (store) => store.#payloads
  }

  constructor(core: OutboxCore, ttl: Duration, options: SagaStoreOptions = {}) {
    this.ttlMs = durationMs('ttl', ttl)
    this.#core = core
    this.#payloads = new PayloadStore(core, options)
  }

  /** Creates the tables, collections or indexes that are missing; the same as `outbox.initialize()`. */
  initialize(): Promise<void> {
    return this.#core.initialize()
  }

  /**
   * Stores `data` under a claim id, compressed and framed; putting an id again replaces it.
   *
   * @param expiresAt when it runs out on the database's clock (default: the store's time to live from now)
   * @throws InvalidClaimIdError, InvalidExpiryError (already past), PayloadTooLargeError: nothing is written
   */
  put(id: string, data: Uint8Array, expiresAt?: Date, call: SagaStoreCall = {}): Promise<void> {
    return this.#core.participate(call.transaction, async (context) => {
      assertClaimId(id)
      const { routingSlipId } = call
      // Compressed elsewhere, it would be read while the caller goes on with it.
      const taken = data.byteLength < COMPRESSED_AT_ONCE_BYTES ? data : Uint8Array.from(data)
      const record = this.#payloads.record(id, taken, this.#expiry(expiresAt), routingSlipId)
      const assertStillThere = record instanceof Promise ? context?.mark() : undefined
      const put = record instanceof Promise ? await record : record
      assertStillThere?.()
      await this.#core.write([{ append: [], put: [put], remove: [], routingSlipId }], context)
    })
  }

  /**
   * The bytes put under a claim id, or `undefined` when there are none or they have expired.
   *
   * @throws InvalidClaimIdError without asking the database; CorruptPayloadError, UnsupportedPayloadError,
   *   PayloadAuthenticationError or UnknownKeyError when the stored bytes can't be trusted
   */
  get(id: string, call: SagaStoreCall = {}): Promise<Uint8Array | undefined> {
    return this.#core.participate(call.transaction, async (context) => {
      assertClaimId(id)
      const frame = await this.#payloads.frame(id, context, call.routingSlipId)
      return frame && this.#payloads.unframe(id, frame, call.routingSlipId)
    })
  }

  /** Removes a payload; removing what isn't there is fine. @throws InvalidClaimIdError */
  delete(id: string, call: SagaStoreCall = {}): Promise<void> {
    return this.#core.participate(call.transaction, async (context) => {
      assertClaimId(id)
      const outcome = { append: [], put: [], remove: [id], routingSlipId: call.routingSlipId }
      await this.#core.write([outcome], context)
    })
  }

  /**
   * Removes every expired payload (and finished event past its retention), in bounded batches. A started bus does
   * this in the background; call it from a cron job where none runs.
   *
   * @returns how many payloads were removed
   * @throws TransactionOpenError inside a transaction
   */
  async cleanup(): Promise<number> {
    this.#core.assertNoTransaction('cleanup()')
    let removed = 0
    for (;;) {
      const { events, payloads, more } = await this.#core.purge(CLEANUP_BATCH)
      removed += payloads
      if (!more && events < CLEANUP_BATCH && payloads < CLEANUP_BATCH) return removed
    }
  }

  #expiry(expiresAt: Date | undefined): When {
    if (expiresAt === undefined) return { inMs: this.ttlMs }
    const at = expiresAt instanceof Date ? expiresAt.getTime() : Number.NaN
    if (!(at <= LATEST_MS))
      throw new InvalidExpiryError('expiresAt is not a valid Date before the year 10000')
    if (at <= this.#core.clock.now()) {
      throw new InvalidExpiryError(
        `expiresAt is ${new Date(at).toISOString()}, which has passed; choose a later moment`,
      )
    }
    return { at }
  }
}

function assertClaimId(id: string): void {
  if (typeof id !== 'string' || !/^[A-Za-z0-9_-]{1,128}$/.test(id)) {
    throw new InvalidClaimIdError(
      'a claim id has 1 to 128 letters, digits, - or _; the database was not asked',
    )
  }
}
