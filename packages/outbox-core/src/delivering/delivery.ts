import type { Logger } from '../logger.ts'
import type { Headers } from '../storage.ts'
import type { Attempt } from './attempt.ts'

/** One attempt at one event, as middleware sees it. */
export interface Delivery {
  readonly id: string
  readonly type: string
  /** What the handler will get; may be replaced. */
  payload: unknown
  readonly headers: Headers
  readonly createdAt: Date
  /** 1 for the first attempt. Leases that were given back don't count. */
  readonly attempt: number
  /** The routing slip that the event belongs to. */
  readonly routingSlipId: string | undefined
  /** The activity that was run, once `next()` has ended, where the event is a step of a saga. */
  readonly activity: string | undefined
  /**
   * Why the activity of a saga's step has failed for good, once `next()` has ended: the step itself then succeeds, and
   * goes on to compensate.
   */
  readonly failure: Error | undefined
  /** Aborted when the handler takes too long, its lease is lost, or the bus stops; the reason says which. */
  readonly signal: AbortSignal
  /** Adds event id, type and attempt to every line. */
  readonly logger: Logger
}

class DeliveryFace implements Delivery {
  readonly #attempt: Attempt

  constructor(attempt: Attempt) {
    this.#attempt = attempt
  }

  get id(): string {
    return this.#attempt.id
  }

  get type(): string {
    return this.#attempt.type
  }

  get payload(): unknown {
    return this.#attempt.payload
  }

  set payload(payload: unknown) {
    this.#attempt.payload = payload
  }

  get headers(): Headers {
    return this.#attempt.headers
  }

  get createdAt(): Date {
    return new Date(this.#attempt.leased.createdAt)
  }

  get attempt(): number {
    return this.#attempt.number
  }

  get routingSlipId(): string | undefined {
    return this.#attempt.routingSlipId
  }

  get activity(): string | undefined {
    return this.#attempt.about?.activity
  }

  get failure(): Error | undefined {
    return this.#attempt.failure
  }

  get signal(): AbortSignal {
    return this.#attempt.signal
  }

  get logger(): Logger {
    return this.#attempt.logger
  }
}

export function deliveryOf(attempt: Attempt): Delivery {
  return new DeliveryFace(attempt)
}
