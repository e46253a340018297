import { v4 as uuid } from 'uuid'
import type { Clock } from '../clock.ts'
import type { Attempt } from '../delivering/attempt.ts'
import { CLAIM_EXPIRES_HEADER, type Draft } from '../emitting/event.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import { PayloadCodec } from './payload-frame.ts'
import { PayloadLog } from './payload-log.ts'
import type { PayloadStore } from './payload-store.ts'
import { OutboxSagaStore, payloadsOf, type SagaStoreAdapter } from './saga-store.ts'

/** How a claim check moves payloads to a saga store and back. */
export interface PayloadPlace {
  /** Moves the draft's payload out of it, to live for `ttlMs`. */
  put(draft: Draft, payload: Uint8Array, ttlMs: number): void | Promise<void>
  /** The payload a claim leads to; settles its fate with the attempt's outcome. */
  take(attempt: Attempt, claimId: string, ttlMs: number): Promise<Uint8Array | undefined>
}

/** All or none where the store is the outbox's own; put before and delete after where it is not. */
export function payloadPlace(store: SagaStoreAdapter, core: OutboxCore): PayloadPlace {
  const own = store instanceof OutboxSagaStore ? payloadsOf(store) : undefined
  return own?.core === core ? new SameDatabase(own) : new Elsewhere(store, core)
}

class SameDatabase implements PayloadPlace {
  readonly #payloads: PayloadStore

  constructor(payloads: PayloadStore) {
    this.#payloads = payloads
  }

  put(draft: Draft, payload: Uint8Array, ttlMs: number): void | Promise<void> {
    const id = uuid()
    const expiresAt = this.#payloads.core.clock.now() + ttlMs
    const record = this.#payloads.record(id, payload, { inMs: ttlMs }, draft.routingSlipId)
    if (record instanceof Promise) return record.then((framed) => draft.claim(id, expiresAt, framed))
    draft.claim(id, expiresAt, record)
  }

  async take(attempt: Attempt, claimId: string, ttlMs: number): Promise<Uint8Array | undefined> {
    const { routingSlipId } = attempt
    const carried = this.#carried(attempt, claimId)
    const frame = carried ?? (await this.#payloads.frame(claimId, undefined, routingSlipId))
    if (!frame) return undefined
    attempt.supersedes = claimId
    attempt.stored = {
      ttlMs,
      renew: async (liveMs) => [{ id: claimId, data: frame, expires: { inMs: liveMs + ttlMs } }],
    }
    return this.#payloads.unframe(claimId, frame, routingSlipId)
  }

  /** What this worker has just put need not be read again. */
  #carried({ carried, headers }: Attempt, claimId: string): Uint8Array | undefined {
    if (Number(headers[CLAIM_EXPIRES_HEADER]) <= this.#payloads.core.clock.now()) return undefined
    return carried.find(({ id }) => id === claimId)?.data
  }
}

const ELSEWHERE_MAX_BYTES = 64 * 1024 * 1024

class Elsewhere implements PayloadPlace {
  readonly #store: SagaStoreAdapter
  readonly #clock: Clock
  readonly #log: PayloadLog
  readonly #codec = new PayloadCodec({ maxBytes: ELSEWHERE_MAX_BYTES })

  constructor(store: SagaStoreAdapter, { clock, logger }: OutboxCore) {
    this.#store = store
    this.#clock = clock
    this.#log = new PayloadLog(logger)
  }

  async put(draft: Draft, payload: Uint8Array, ttlMs: number): Promise<void> {
    const id = uuid()
    const expiresAt = this.#clock.now() + ttlMs
    const subject = { routingSlipId: draft.routingSlipId, claimId: id, bytes: payload.byteLength }
    await this.#log.apart('put', subject, async () => {
      await this.#store.put(id, await this.#codec.encode(payload, id), new Date(expiresAt))
    })
    draft.claim(id, expiresAt)
  }

  async take(attempt: Attempt, claimId: string, ttlMs: number): Promise<Uint8Array | undefined> {
    const subject = { routingSlipId: attempt.routingSlipId, claimId }
    const frame = await this.#log.read(subject, () => this.#store.get(claimId))
    if (!frame) return undefined
    attempt.stored = { ttlMs, renew: (liveMs) => this.#renew(claimId, frame, liveMs + ttlMs, subject) }
    // Should it fail, that is logged, and the payload's time to live removes it.
    attempt.afterSettled = () =>
      this.#log.apart('delete', subject, () => this.#store.delete(claimId)).catch(() => {})
    return this.#log.failing('get', subject, async () => this.#codec.decode(frame, claimId))
  }

  async #renew(claimId: string, frame: Uint8Array, ttlMs: number, subject: object): Promise<readonly []> {
    const until = new Date(this.#clock.now() + ttlMs)
    await this.#log.apart('put', { routingSlipId: undefined, claimId, ...subject }, () =>
      this.#store.put(claimId, frame, until),
    )
    return []
  }
}
