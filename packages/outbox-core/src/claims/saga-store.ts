import {
  ConfigurationError,
  InvalidClaimIdError,
  InvalidExpiryError,
  PayloadTooLargeError,
} from '../errors.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'
import type { Outbox } from '../outbox.ts'
import type { PayloadRecord, When } from '../storage.ts'
import { type EncryptionOptions, PayloadCodec, type PayloadCodecOptions } from './payload-frame.ts'
import { PayloadLog } from './payload-log.ts'

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

const DEFAULT_MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
const CLEANUP_BATCH = 1000

/**
 * The saga store in an outbox's own database. Inside `outbox.transaction` (or with `{ transaction }`) its writes
 * commit and roll back with everything else; outside they are writes of their own. Made by `outbox.sagaStore(ttl)`.
 */
export class OutboxSagaStore implements SagaStoreAdapter {
  readonly outbox: Outbox
  /** How long a payload lives after it was put, in milliseconds. */
  readonly ttlMs: number
  readonly #codec: PayloadCodec
  readonly #log: PayloadLog

  constructor(outbox: Outbox, ttl: Duration, options: SagaStoreOptions = {}) {
    this.outbox = outbox
    this.#log = new PayloadLog(outbox.logger)
    this.ttlMs = durationMs('ttl', ttl)
    const maxBytes = wholeNumber(
      'maxPayloadBytes',
      options.maxPayloadBytes ?? DEFAULT_MAX_PAYLOAD_BYTES,
      1,
      2 ** 31 - 1,
    )
    this.#codec = new PayloadCodec({
      maxBytes,
      ...(options.compression !== undefined && { compression: options.compression }),
      ...(options.encryption !== undefined && { encryption: options.encryption }),
    })
    const { payloadBytes } = outbox.storage.limits
    const { maxFrameBytes } = this.#codec
    if (
      options.maxPayloadBytes !== undefined &&
      options.compression === 'none' &&
      maxFrameBytes > payloadBytes
    ) {
      throw new ConfigurationError(
        'maxPayloadBytes',
        maxBytes,
        `uncompressed it takes up to ${maxFrameBytes} bytes, and this database takes ${payloadBytes}`,
      )
    }
  }

  /** Creates the tables, collections or indexes that are missing; the same as `outbox.initialize()`. */
  initialize(): Promise<void> {
    return this.outbox.initialize()
  }

  /**
   * Stores `data` under a claim id, compressed and framed; putting an id again replaces it.
   *
   * @param expiresAt when it runs out on the database's clock (default: the store's time to live from now)
   * @throws InvalidClaimIdError, InvalidExpiryError (already past), PayloadTooLargeError: nothing is written
   */
  put(id: string, data: Uint8Array, expiresAt?: Date, call: SagaStoreCall = {}): Promise<void> {
    return this.outbox.participate(call.transaction, async (context) => {
      assertClaimId(id)
      const { routingSlipId } = call
      const record = await this.record(id, data, this.#expiry(expiresAt), routingSlipId)
      await this.outbox.write([{ append: [], put: [record], remove: [], routingSlipId }], context)
    })
  }

  /**
   * The bytes put under a claim id, or `undefined` when there are none or they have expired.
   *
   * @throws InvalidClaimIdError without asking the database; CorruptPayloadError, UnsupportedPayloadError,
   *   PayloadAuthenticationError or UnknownKeyError when the stored bytes can't be trusted
   */
  async get(id: string, call: SagaStoreCall = {}): Promise<Uint8Array | undefined> {
    const frame = await this.frame(id, call)
    return frame && (await this.unframe(id, frame, call.routingSlipId))
  }

  /** Removes a payload; removing what isn't there is fine. @throws InvalidClaimIdError */
  delete(id: string, call: SagaStoreCall = {}): Promise<void> {
    return this.outbox.participate(call.transaction, async (context) => {
      assertClaimId(id)
      const outcome = { append: [], put: [], remove: [id], routingSlipId: call.routingSlipId }
      await this.outbox.write([outcome], context)
    })
  }

  /**
   * Removes every expired payload (and finished event past its retention), in bounded batches. A started bus does
   * this in the background; call it from a cron job where none runs.
   *
   * @returns how many payloads were removed
   */
  async cleanup(): Promise<number> {
    let removed = 0
    for (;;) {
      const { payloads } = await this.outbox.purge(CLEANUP_BATCH)
      removed += payloads
      if (payloads < CLEANUP_BATCH) return removed
    }
  }

  /** A framed payload, ready for a write. Not needed by users. */
  record(id: string, data: Uint8Array, expires: When, routingSlipId?: string): Promise<PayloadRecord> {
    return this.#log.failing('put', { routingSlipId, claimId: id, bytes: data.byteLength }, async () => {
      const frame = await this.#codec.encode(data, id)
      const { payloadBytes, payloadAdvice = 'this is the limit of the database: keep less in it' } =
        this.outbox.storage.limits
      if (frame.byteLength > payloadBytes)
        throw new PayloadTooLargeError(payloadBytes, frame.byteLength, payloadAdvice)
      return { id, data: frame, expires }
    })
  }

  /** A payload's bytes as stored. Not needed by users. */
  frame(id: string, call: SagaStoreCall = {}): Promise<Uint8Array | undefined> {
    return this.outbox.participate(call.transaction, async (context) => {
      assertClaimId(id)
      return this.outbox.readPayload(id, context, call.routingSlipId)
    })
  }

  /** The payload in stored bytes. Not needed by users. */
  unframe(id: string, frame: Uint8Array, routingSlipId?: string): Promise<Uint8Array> {
    const subject = { routingSlipId, claimId: id, bytes: frame.byteLength }
    return this.#log.failing('get', subject, () => this.#codec.decode(frame, id))
  }

  #expiry(expiresAt: Date | undefined): When {
    if (expiresAt === undefined) return { inMs: this.ttlMs }
    const at = expiresAt instanceof Date ? expiresAt.getTime() : Number.NaN
    if (Number.isNaN(at)) throw new InvalidExpiryError('expiresAt is not a valid Date')
    if (at <= this.outbox.clock.now()) {
      throw new InvalidExpiryError(
        `expiresAt is ${expiresAt.toISOString()}, which has passed; choose a later moment`,
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
