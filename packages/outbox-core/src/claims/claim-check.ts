import type { Clock } from '../clock.ts'
import type { Attempt } from '../delivering/attempt.ts'
import { PermanentError } from '../delivering/attempt-errors.ts'
import { CLAIM_EXPIRES_HEADER, CLAIM_HEADER, type Draft } from '../emitting/event.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import { ConfigurationError } from '../errors.ts'
import { type Middleware, PayloadMover } from '../middleware.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'
import { ClaimExpiredError, ClaimNotFoundError } from './payload-errors.ts'
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
  return new ClaimCheck(store, options)
}

class ClaimCheck extends PayloadMover {
  readonly #store: SagaStoreAdapter
  readonly #threshold: number
  readonly #types: ReadonlySet<string> | undefined
  readonly #ttlMs: number
  #place: PayloadPlace | undefined
  #clock: Clock | undefined

  constructor(store: SagaStoreAdapter, options: ClaimCheckOptions) {
    super()
    this.#store = store
    this.#threshold = wholeNumber('threshold', options.threshold ?? DEFAULT_THRESHOLD, 0)
    this.#types = options.types && new Set(options.types)
    this.#ttlMs = timeToLive(store, options.ttl)
  }

  attach(core: OutboxCore, retryHorizonMs: number): void {
    assertOutlives(this.#ttlMs, retryHorizonMs)
    this.#clock = core.clock
    this.#place = payloadPlace(this.#store, core)
  }

  moveOut(draft: Draft): void | Promise<void> {
    if (!this.#isFor(draft.type) || CLAIM_HEADER in draft.headers) return
    const { json } = draft
    // Every UTF-16 unit is at most three bytes: most payloads need not be counted.
    if (json.length * 3 <= this.#threshold || Buffer.byteLength(json) <= this.#threshold) return
    const waitMs = Math.max(0, draft.dueInMs(this.#clock?.now() ?? 0))
    return this.#place?.put(draft, Buffer.from(json), this.#ttlMs + waitMs)
  }

  async moveIn(attempt: Attempt): Promise<void> {
    const claimId = attempt.headers[CLAIM_HEADER]
    if (claimId === undefined || attempt.claimTaken || !this.#isFor(attempt.type)) return
    attempt.claimTaken = true
    const payload = await this.#place?.take(attempt, claimId, this.#ttlMs)
    if (!payload) throw missing(attempt, claimId, this.#clock?.now() ?? 0)
    attempt.payload = parsed(payload, claimId)
  }

  #isFor(type: string): boolean {
    return !this.#types || this.#types.has(type)
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

function missing({ headers }: Attempt, claimId: string, now: number): Error {
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
