import type { Emission } from '../emitting/emission.ts'
import {
  CLAIM_EXPIRES_HEADER,
  EventDraft,
  type EventOptions,
  type OutboxEvent,
  SLIP_HEADER,
} from '../emitting/event.ts'
import { TransactionClosedError } from '../errors.ts'
import { type Logger, withFields } from '../logger.ts'
import type { Headers, LeasedEvent, NewEvent, PayloadRecord } from '../storage.ts'

/** A payload's stored bytes, and how long it lives after every put. */
export interface StoredPayload {
  readonly id: string
  readonly data: Uint8Array
  readonly ttlMs: number
}

/** One attempt at one event: what its handler sees of it, and what will be written together with its settlement. */
export class Delivery implements OutboxEvent {
  readonly leased: LeasedEvent
  /** When the lease was last known to be fresh, by the clock's `elapsed`. */
  leasedAt: number
  /** How long the event is kept once completed; 0 deletes it. */
  keepMs: number
  readonly append: NewEvent[] = []
  readonly put: PayloadRecord[] = []
  readonly remove: string[] = []
  /** The payloads put in the write that appended the event, where this worker made it. */
  carried: readonly PayloadRecord[] = []
  /** The payload that the event's claim led to, as it is stored: put again when it has to live on. */
  stored: StoredPayload | undefined
  /** Called once the event is completed and written; must not throw or reject. */
  readonly afterSettled: (() => void | Promise<void>)[] = []
  payload: unknown
  /** Whether the payload has been fetched from where its claim leads. */
  claimTaken = false
  readonly #emission: Emission
  readonly #logger: Logger
  readonly #emitting: Promise<unknown>[] = []
  #closed = false
  #controller: AbortController | undefined
  #abortReason: Error | undefined
  #giveUp: ((reason: Error) => void) | undefined

  constructor(leased: LeasedEvent, emission: Emission, logger: Logger, leasedAt: number, keepMs: number) {
    this.leased = leased
    this.leasedAt = leasedAt
    this.keepMs = keepMs
    this.#emission = emission
    this.#logger = logger
  }

  get id(): string {
    return this.leased.id
  }

  get type(): string {
    return this.leased.type
  }

  get headers(): Headers {
    return this.leased.headers
  }

  get createdAt(): Date {
    return new Date(this.leased.createdAt)
  }

  get attempt(): number {
    return this.leased.attempt - this.leased.uncounted
  }

  get routingSlipId(): string | undefined {
    return this.leased.headers[SLIP_HEADER]
  }

  get logger(): Logger {
    return withFields(this.#logger, this.logFields)
  }

  get logFields(): object {
    const { id: eventId, type, attempt, routingSlipId } = this
    return routingSlipId === undefined
      ? { eventId, type, attempt }
      : { eventId, type, attempt, routingSlipId }
  }

  /** Aborted when the handler takes too long, its lease is lost, or the bus stops; the reason says which. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    if (this.#abortReason) this.#controller.abort(this.#abortReason)
    return this.#controller.signal
  }

  get abortReason(): Error | undefined {
    return this.#abortReason
  }

  /**
   * Emits an event in the write that settles this one: only if it completes, and exactly once.
   *
   * @param own the library's own headers
   * @returns the event's id
   * @throws TransactionClosedError when that write is already on its way
   */
  readonly emit = (
    type: string,
    payload: unknown,
    options: Omit<EventOptions, 'id'> = {},
    own: Headers = {},
  ): Promise<string> => {
    const emitting = this.#emit(type, payload, options, own)
    this.#emitting.push(emitting)
    return emitting
  }

  async #emit(type: string, payload: unknown, options: EventOptions, own: Headers): Promise<string> {
    if (this.#closed) throw new TransactionClosedError('await every emit inside the handler of its event')
    const draft = new EventDraft(type, payload, { ...options, id: undefined }, own)
    const { append, put } = await this.#emission.prepare(draft)
    this.append.push(...append)
    this.put.push(...put)
    return draft.id
  }

  /** Waits for emits that the handler did not await, and takes no more. Fails when one of them failed. */
  close(): void | Promise<void> {
    if (this.#emitting.length > 0) return Promise.all(this.#emitting.splice(0)).then(() => this.close())
    this.#closed = true
  }

  /** What has to be put so that the payload lives for its whole time after a wait. */
  renewal(waitMs: number): PayloadRecord[] {
    if (!this.stored) return []
    const { id, data, ttlMs } = this.stored
    return [{ id, data, expires: { inMs: waitMs + ttlMs } }]
  }

  /** As `renewal`, but nothing when more than half of that time is left anyway. */
  renewalIfShort(waitMs: number, now: number): PayloadRecord[] {
    const expiresAt = Number(this.headers[CLAIM_EXPIRES_HEADER])
    const short = this.stored && expiresAt - now < waitMs + this.stored.ttlMs / 2
    return short ? this.renewal(waitMs) : []
  }

  /** Forgets what a failed handler emitted. */
  discard(): void {
    this.append.length = 0
    this.put.length = 0
    this.#closed = false
    this.#emitting.length = 0
  }

  /** Asks the handler to end, and unless it is to be given time, no longer waits for it. */
  abort(reason: Error, { wait = false }: { readonly wait?: boolean } = {}): void {
    this.#abortReason ??= reason
    this.#controller?.abort(reason)
    if (!wait) this.#giveUp?.(reason)
  }

  /** Settles as `work` does, or rejects when `abort` gives it up. */
  attend(work: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#giveUp = reject
      work.then(resolve, reject)
    })
  }
}
