import type { Delivery } from '../delivering/delivery.ts'
import { CLAIM_EXPIRES_HEADER, CLAIM_HEADER, type EventDraft } from '../emitting/event.ts'
import { ClaimExpiredError, ClaimNotFoundError, ConfigurationError, PermanentError } from '../errors.ts'
import type { Middleware } from '../middleware.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'
import type { Outbox } from '../outbox.ts'
import { type PayloadPlace, payloadPlace } from './payload-place.ts'
import { OutboxSagaStore, type SagaStoreAdapter } from './saga-store.ts'

export interface ClaimCheckOptions {
  /**
   * Payloads with more bytes of JSON than this go to the store; smaller ones travel in their events.
   * @default 10240
   */
  readonly threshold?: number
  /** Only events of these types. @default all */
  readonly types?: readonly string[]
  /**
   * How long a payload lives, counted from the moment its event is due. Has to outlast its retries.
   * @default the store's own, where it comes from `outbox.sagaStore(ttl)`
   */
  readonly ttl?: Duration
}

const DEFAULT_THRESHOLD = 10 * 1024

/**
 * Middleware that keeps large payloads out of events: it stores them as binary under a claim, puts them back before
 * the handler runs, and removes them when their event is completed.
 *
 * With a store from `outbox.sagaStore()` of the same outbox each of these is part of the write of the event itself.
 * With any other store a payload is put before the event is written and deleted after it is completed, so that the
 * worst case is an orphan which its time to live removes.
 *
 * @throws ConfigurationError
 */
export function claimCheck(store: SagaStoreAdapter, options: ClaimCheckOptions = {}): Middleware {
  const threshold = wholeNumber('threshold', options.threshold ?? DEFAULT_THRESHOLD, 0)
  const types = options.types && new Set(options.types)
  const ttlMs = timeToLive(store, options.ttl)
  let outbox: Outbox
  let place: PayloadPlace
  return {
    nearStorage: true,
    attach(bus) {
      assertOutlives(ttlMs, bus.retry.horizonMs)
      outbox = bus.outbox as unknown as Outbox
      place = payloadPlace(store, outbox)
    },
    async emit(draft: EventDraft) {
      if ((types && !types.has(draft.type)) || CLAIM_HEADER in draft.headers) return
      const json = draft.json()
      // Every UTF-16 unit is at most three bytes: most payloads need not be counted.
      if (json.length * 3 <= threshold || Buffer.byteLength(json) <= threshold) return
      const waitMs = Math.max(0, draft.dueInMs(outbox.clock.now()))
      await place.put(draft, Buffer.from(json), ttlMs + waitMs)
    },
    async handle(delivery, next) {
      const claimId = delivery.headers[CLAIM_HEADER]
      if (claimId !== undefined && !delivery.claimTaken && (!types || types.has(delivery.type))) {
        delivery.claimTaken = true
        const payload = await place.take(delivery, claimId, ttlMs)
        if (!payload) throw missing(delivery, claimId, outbox.clock.now())
        delivery.payload = parsed(payload, claimId)
      }
      await next()
    },
  }
}

/** @throws ConfigurationError when payloads would expire while their events are still being retried */
export function assertOutlives(ttlMs: number, horizonMs: number): void {
  if (ttlMs > horizonMs) return
  throw new ConfigurationError(
    'ttl',
    `${ttlMs} ms`,
    `it must be longer than the retries can take, ${horizonMs} ms`,
  )
}

/** @throws ConfigurationError */
export function timeToLive(store: SagaStoreAdapter, ttl: Duration | undefined): number {
  if (ttl !== undefined) return durationMs('ttl', ttl)
  if (store instanceof OutboxSagaStore) return store.ttlMs
  throw new ConfigurationError('ttl', undefined, 'a store that is not from outbox.sagaStore() needs one')
}

function missing({ headers }: Delivery, claimId: string, now: number): Error {
  const expiredAt = Number(headers[CLAIM_EXPIRES_HEADER])
  return now >= expiredAt
    ? new ClaimExpiredError(`the payload of claim "${claimId}" expired; choose a longer time to live`)
    : new ClaimNotFoundError(`there is no payload for claim "${claimId}"`)
}

function parsed(payload: Uint8Array, claimId: string): unknown {
  try {
    return JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString())
  } catch (cause) {
    // V8's message quotes the text, which is the payload.
    throw new PermanentError(`the payload of claim "${claimId}" is not JSON`, {
      cause: new Error((cause as Error).name),
    })
  }
}
