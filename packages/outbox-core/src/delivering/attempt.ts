import { type OutboxEvent, SLIP_HEADER } from '../emitting/event.ts'
import { type Logger, withFields } from '../logger.ts'
import type { Headers, LeasedEvent, PayloadRecord } from '../storage.ts'
import type { Place } from './judgement.ts'

/** A payload as its claim led to it, and how it is made to live on. */
export interface StoredPayload {
  /** How long it lives after every put. */
  readonly ttlMs: number
  /** What has to be put so that it lives until so long after now; kept elsewhere, it has been put by then. */
  renew(liveMs: number): Promise<readonly PayloadRecord[]>
}

/** One attempt at one event: the lease it holds, how far it has come, and how it is told to end. */
export class Attempt {
  readonly leased: LeasedEvent
  /** When the lease was last known to be fresh, by the clock's `elapsed`. */
  leasedAt: number
  /** When this worker got it, by the clock's `elapsed`. */
  readonly since: number
  /** Who waits for its handler just now. */
  handling: object | undefined
  /** How far it has come: what its failure means depends on that. */
  place: Place = 'before'
  payload: unknown
  /** Whether the payload has been fetched from where its claim leads. */
  claimTaken = false
  /** The payloads put in the write that appended the event, where this worker made it. */
  carried: readonly PayloadRecord[] = []
  /** The payload that the event's claim led to. */
  stored: StoredPayload | undefined
  /** The payload that is superseded once the event is completed. */
  supersedes: string | undefined
  /** Called once the event is completed and written; must not throw or reject. */
  afterSettled: (() => void | Promise<void>) | undefined
  /** How long the event is kept once completed; 0 deletes it. */
  keepMs: number
  /** Whether its key goes on without it when it becomes a dead letter. */
  skips = false
  /** The activity that a saga's step runs, and its number in the slip. */
  about: { readonly activity: string; readonly step: number } | undefined
  /** Why it failed for good, also where that is no failure of the event: a saga goes on to compensate. */
  failure: Error | undefined
  /** Called when all that is left to do is to wait: the worker may begin something else. */
  onWaiting: (() => void) | undefined
  readonly #logger: Logger
  #controller: AbortController | undefined
  #abortReason: Error | undefined
  #under: ((reason: Error, options: { readonly wait?: boolean }) => void) | undefined
  #attending: ((reason: Error) => void)[] | undefined
  #givenUp = false

  constructor(leased: LeasedEvent, logger: Logger, now: number, keepMs: number) {
    this.leased = leased
    this.leasedAt = now
    this.since = now
    this.keepMs = keepMs
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

  /** 1 for the first attempt; leases that were given back don't count. */
  get number(): number {
    return this.leased.attempt - this.leased.uncounted
  }

  get routingSlipId(): string | undefined {
    return this.leased.headers[SLIP_HEADER]
  }

  /** What a handler sees of it. */
  get event(): OutboxEvent {
    const { id, type, headers, payload, number: attempt } = this
    return { id, type, payload, headers, createdAt: new Date(this.leased.createdAt), attempt }
  }

  get logger(): Logger {
    return withFields(this.#logger, this.logFields)
  }

  get logFields(): object {
    const { id: eventId, type, number: attempt, routingSlipId, about } = this
    return {
      ...{ eventId, type, attempt },
      ...(routingSlipId !== undefined && { routingSlipId }),
      ...about,
    }
  }

  /** The database's time, as far as this process can tell `elapsed` milliseconds on its own clock. */
  databaseNow(elapsed: number): number {
    return this.leased.leasedAt + (elapsed - this.since)
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

  /** Asks the handler to end, and unless it is to be given time, no longer waits for it. */
  abort(reason: Error, { wait = false }: { readonly wait?: boolean } = {}): void {
    this.#abortReason ??= reason
    this.#controller?.abort(reason)
    this.#under?.(reason, { wait })
    if (wait) return
    this.#givenUp = true
    for (const giveUp of this.#attending?.splice(0) ?? []) giveUp(reason)
  }

  /** Has whatever goes on under this lease told to end with it. */
  whenAborted(abort: (reason: Error, options: { readonly wait?: boolean }) => void): void {
    this.#under = abort
  }

  /** Settles as `work` does, or rejects when `abort` gives it up. */
  attend<R>(work: Promise<R>): Promise<R> {
    return new Promise((resolve, reject) => {
      work.then(resolve, reject)
      if (this.#givenUp) return reject(this.#abortReason)
      this.#attending ??= []
      this.#attending.push(reject)
    })
  }
}
