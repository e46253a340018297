import { v4 as uuid } from 'uuid'
import type { Delivery } from '../delivery.ts'
import { toError } from '../errors.ts'
import type { EventDraft } from '../event.ts'
import { errorFields } from '../logger.ts'
import type { Outbox } from '../outbox.ts'
import { PayloadCodec } from './payload-frame.ts'
import { OutboxSagaStore, type SagaStoreAdapter } from './saga-store.ts'

/** How a claim check moves payloads to a saga store and back. */
export interface PayloadPlace {
  /** Moves the draft's payload out of it, to live for `ttlMs`. */
  put(draft: EventDraft, payload: Uint8Array, ttlMs: number): Promise<void>
  /** The payload a claim leads to; settles its fate with the delivery's outcome. */
  take(delivery: Delivery, claimId: string, ttlMs: number): Promise<Uint8Array | undefined>
}

/** All or none where the store is the outbox's own; put before and delete after where it is not. */
export function payloadPlace(store: SagaStoreAdapter, outbox: Outbox): PayloadPlace {
  return store instanceof OutboxSagaStore && store.outbox === outbox
    ? new SameDatabase(store)
    : new Elsewhere(store, outbox)
}

class SameDatabase implements PayloadPlace {
  readonly #store: OutboxSagaStore

  constructor(store: OutboxSagaStore) {
    this.#store = store
  }

  async put(draft: EventDraft, payload: Uint8Array, ttlMs: number): Promise<void> {
    const id = uuid()
    const record = await this.#store.record(id, payload, { inMs: ttlMs })
    draft.claim(id, this.#store.outbox.clock.now() + ttlMs, record)
  }

  async take(delivery: Delivery, claimId: string, ttlMs: number): Promise<Uint8Array | undefined> {
    const { routingSlipId } = delivery
    const frame = await this.#store.frame(claimId, routingSlipId === undefined ? {} : { routingSlipId })
    if (!frame) return undefined
    delivery.remove.push(claimId)
    delivery.keepAlive.push({ id: claimId, data: frame, expires: { inMs: ttlMs } })
    return this.#store.unframe(claimId, frame)
  }
}

const ELSEWHERE_MAX_BYTES = 64 * 1024 * 1024

class Elsewhere implements PayloadPlace {
  readonly #store: SagaStoreAdapter
  readonly #outbox: Outbox
  readonly #codec = new PayloadCodec({ maxBytes: ELSEWHERE_MAX_BYTES })

  constructor(store: SagaStoreAdapter, outbox: Outbox) {
    this.#store = store
    this.#outbox = outbox
  }

  async put(draft: EventDraft, payload: Uint8Array, ttlMs: number): Promise<void> {
    const id = uuid()
    const expiresAt = this.#outbox.clock.now() + ttlMs
    await this.#store.put(id, await this.#codec.encode(payload, id), new Date(expiresAt))
    draft.claim(id, expiresAt)
  }

  async take(delivery: Delivery, claimId: string): Promise<Uint8Array | undefined> {
    const frame = await this.#store.get(claimId)
    if (!frame) return undefined
    delivery.afterSettled.push(() => this.#delete(delivery, claimId))
    return this.#codec.decode(frame, claimId)
  }

  async #delete(delivery: Delivery, claimId: string): Promise<void> {
    try {
      await this.#store.delete(claimId)
    } catch (error) {
      const fields = { ...delivery.logFields, claimId, error: errorFields(toError(error)) }
      this.#outbox.logger.warn(fields, 'payload delete failed; it stays until it expires')
    }
  }
}
