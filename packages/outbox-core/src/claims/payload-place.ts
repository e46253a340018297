import { v4 as uuid } from 'uuid'
import type { Clock } from '../clock.ts'
import type { Delivery } from '../delivering/delivery.ts'
import { CLAIM_EXPIRES_HEADER, type EventDraft } from '../emitting/event.ts'
import type { Outbox } from '../outbox.ts'
import { PayloadCodec } from './payload-frame.ts'
import { PayloadLog } from './payload-log.ts'
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
    const record = await this.#store.record(id, payload, { inMs: ttlMs }, draft.routingSlipId)
    draft.claim(id, this.#store.outbox.clock.now() + ttlMs, record)
  }

  async take(delivery: Delivery, claimId: string, ttlMs: number): Promise<Uint8Array | undefined> {
    const { routingSlipId } = delivery
    const frame = this.#carried(delivery, claimId) ?? (await this.#read(claimId, routingSlipId))
    if (!frame) return undefined
    delivery.remove.push(claimId)
    delivery.stored = { id: claimId, data: frame, ttlMs }
    return this.#store.unframe(claimId, frame, routingSlipId)
  }

  /** What this worker has just put need not be read again. */
  #carried({ carried, headers }: Delivery, claimId: string): Uint8Array | undefined {
    if (Number(headers[CLAIM_EXPIRES_HEADER]) <= this.#store.outbox.clock.now()) return undefined
    return carried.find(({ id }) => id === claimId)?.data
  }

  #read(claimId: string, routingSlipId: string | undefined): Promise<Uint8Array | undefined> {
    return this.#store.frame(claimId, routingSlipId === undefined ? {} : { routingSlipId })
  }
}

const ELSEWHERE_MAX_BYTES = 64 * 1024 * 1024

class Elsewhere implements PayloadPlace {
  readonly #store: SagaStoreAdapter
  readonly #clock: Clock
  readonly #log: PayloadLog
  readonly #codec = new PayloadCodec({ maxBytes: ELSEWHERE_MAX_BYTES })

  constructor(store: SagaStoreAdapter, { clock, logger }: Outbox) {
    this.#store = store
    this.#clock = clock
    this.#log = new PayloadLog(logger)
  }

  async put(draft: EventDraft, payload: Uint8Array, ttlMs: number): Promise<void> {
    const id = uuid()
    const expiresAt = this.#clock.now() + ttlMs
    const subject = { routingSlipId: draft.routingSlipId, claimId: id, bytes: payload.byteLength }
    await this.#log.apart('put', subject, async () => {
      await this.#store.put(id, await this.#codec.encode(payload, id), new Date(expiresAt))
    })
    draft.claim(id, expiresAt)
  }

  async take(delivery: Delivery, claimId: string): Promise<Uint8Array | undefined> {
    const subject = { routingSlipId: delivery.routingSlipId, claimId }
    const frame = await this.#log.read(subject, () => this.#store.get(claimId))
    if (!frame) return undefined
    // Should it fail, that is logged, and the payload's time to live removes it.
    delivery.afterSettled.push(() =>
      this.#log.apart('delete', subject, () => this.#store.delete(claimId)).catch(() => {}),
    )
    return this.#log.failing('get', subject, () => this.#codec.decode(frame, claimId))
  }
}
