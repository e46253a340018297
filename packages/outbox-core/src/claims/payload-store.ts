import type { OutboxCore } from '../emitting/outbox-core.ts'
import { started, type TransactionContext } from '../emitting/transaction-context.ts'
import { ConfigurationError } from '../errors.ts'
import { wholeNumber } from '../options.ts'
import type { PayloadRecord, When } from '../storage.ts'
import { PayloadTooLargeError } from './payload-errors.ts'
import { PayloadCodec, type PayloadCodecOptions } from './payload-frame.ts'
import { PayloadLog } from './payload-log.ts'

const DEFAULT_MAX_PAYLOAD_BYTES = 16 * 1024 * 1024

type PayloadStoreOptions = Pick<PayloadCodecOptions, 'compression' | 'encryption'> & {
  readonly maxPayloadBytes?: number
}

/** Payloads in an outbox's own database, as the saga store and the claim check use them: framed, checked, logged. */
export class PayloadStore {
  readonly core: OutboxCore
  readonly #codec: PayloadCodec
  readonly #log: PayloadLog

  /** @throws ConfigurationError */
  constructor(core: OutboxCore, options: PayloadStoreOptions) {
    const { maxPayloadBytes, compression, encryption } = options
    this.core = core
    this.#log = new PayloadLog(core.logger)
    const maxBytes = wholeNumber(
      'maxPayloadBytes',
      maxPayloadBytes ?? DEFAULT_MAX_PAYLOAD_BYTES,
      1,
      2 ** 31 - 1,
    )
    this.#codec = new PayloadCodec({
      maxBytes,
      ...(compression !== undefined && { compression }),
      ...(encryption !== undefined && { encryption }),
    })
    const { payloadBytes } = core.storage.limits
    const { maxFrameBytes } = this.#codec
    if (maxPayloadBytes !== undefined && compression === 'none' && maxFrameBytes > payloadBytes) {
      throw new ConfigurationError(
        'maxPayloadBytes',
        maxBytes,
        `uncompressed it takes up to ${maxFrameBytes} bytes, and this database takes ${payloadBytes}`,
      )
    }
  }

  /** A framed payload, ready for a write: at once when it is small, else a promise. `data` must not change until then. */
  record(
    id: string,
    data: Uint8Array,
    expires: When,
    routingSlipId?: string,
  ): PayloadRecord | Promise<PayloadRecord> {
    const framed = (frame: Uint8Array): PayloadRecord => ({ id, data: this.#fitting(frame), expires })
    const subject = { routingSlipId, claimId: id, bytes: data.byteLength }
    return this.#log.failing('put', subject, () => {
      const frame = this.#codec.encode(data, id)
      return frame instanceof Promise ? frame.then(framed) : framed(frame)
    })
  }

  /** A payload's bytes as stored. */
  frame(
    id: string,
    context: TransactionContext<unknown> | undefined,
    routingSlipId?: string,
  ): Promise<Uint8Array | undefined> {
    return this.core.readPayload(id, context, routingSlipId)
  }

  /** The payload in stored bytes. */
  unframe(id: string, frame: Uint8Array, routingSlipId?: string): Promise<Uint8Array> {
    const subject = { routingSlipId, claimId: id, bytes: frame.byteLength }
    return started(async () => this.#log.failing('get', subject, () => this.#codec.decode(frame, id)))
  }

  #fitting(frame: Uint8Array): Uint8Array {
    const { payloadBytes, payloadAdvice = 'this is the limit of the database: keep less in it' } =
      this.core.storage.limits
    if (frame.byteLength <= payloadBytes) return frame
    throw new PayloadTooLargeError(payloadBytes, frame.byteLength, payloadAdvice)
  }
}
