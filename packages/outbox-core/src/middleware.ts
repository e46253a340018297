import type { Attempt } from './delivering/attempt.ts'
import { type Delivery, deliveryOf } from './delivering/delivery.ts'
import type { Draft, EventDraft } from './emitting/event.ts'
import type { OutboxCore } from './emitting/outbox-core.ts'

/** Something that takes part in every event's way: on its way into the outbox, and around its handler. */
export interface Middleware {
  /** Before an event is stored: may change payload and headers; what it throws reaches the caller of `emit`. */
  emit?(draft: EventDraft): void | Promise<void>
  /**
   * Around an event's handler: `next()` goes on inwards, and rejects when the handler fails or is no longer waited for;
   * not calling it completes the event unhandled. What it throws before the handler was called is not counted as an
   * attempt.
   */
  handle?(delivery: Delivery, next: () => Promise<void>): void | Promise<void>
}

/**
 * Moves payloads between events and where they are kept: the innermost layer, so that all other middleware sees the
 * payload itself. Made by `claimCheck`.
 */
export abstract class PayloadMover implements Middleware {
  // Its own two are called with more than other middleware gets to see.
  readonly emit?: never
  readonly handle?: never

  /** Called once by `bus.use`. @throws ConfigurationError to refuse the bus */
  abstract attach(core: OutboxCore, retryHorizonMs: number): void
  abstract moveOut(draft: Draft): void | Promise<void>
  abstract moveIn(attempt: Attempt): void | Promise<void>
}

/** The middleware of one bus, in the order it was given. */
export class MiddlewareChain {
  readonly #layers: Middleware[] = []
  readonly #movers: PayloadMover[] = []

  use(middleware: Middleware): void {
    if (middleware instanceof PayloadMover) this.#movers.push(middleware)
    else this.#layers.push(middleware)
  }

  /** Shows a draft to every layer, one after the other; a promise only if one of them returns one. */
  emit(draft: Draft, from = 0): void | Promise<void> {
    for (let index = from; index < this.#layers.length; index++) {
      const pending = this.#layers[index]?.emit?.(draft)
      if (pending) return Promise.resolve(pending).then(() => this.emit(draft, index + 1))
    }
  }

  /** Moves a draft's payload out of it. */
  moveOut(draft: Draft, from = 0): void | Promise<void> {
    for (let index = from; index < this.#movers.length; index++) {
      const pending = this.#movers[index]?.moveOut(draft)
      if (pending) return pending.then(() => this.moveOut(draft, index + 1))
    }
  }

  /** Puts back a payload that was moved. */
  async moveIn(attempt: Attempt): Promise<void> {
    for (const mover of this.#movers) await mover.moveIn(attempt)
  }

  /** Runs `handler` inside every layer. */
  handle(attempt: Attempt, handler: () => void | Promise<void>): void | Promise<void> {
    if (this.#layers.length === 0) return handler()
    const delivery = deliveryOf(attempt)
    const enter = async (depth: number): Promise<void> => {
      const layer = this.#layers[depth]
      // Given up, the handler may run on for ever: the layers are not to wait for it.
      if (!layer) await attempt.attend(Promise.resolve(handler()))
      else if (layer.handle) await layer.handle(delivery, () => enter(depth + 1))
      else await enter(depth + 1)
    }
    return enter(0)
  }
}
