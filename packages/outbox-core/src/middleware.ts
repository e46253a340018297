import type { OutboxEventBus } from './bus.ts'
import type { Delivery } from './delivering/delivery.ts'
import type { EventDraft } from './emitting/event.ts'

/** Something that takes part in every event's way: on its way into the outbox, and around its handler. */
export interface Middleware {
  /** Called once by `bus.use`; throw here to refuse the bus. */
  attach?(bus: OutboxEventBus<never>): void
  /** Before an event is stored: may change payload and headers; what it throws reaches the caller of `emit`. */
  emit?(draft: EventDraft): void | Promise<void>
  /** Around an event's handler: `next()` goes on inwards; not calling it completes the event unhandled. */
  handle?(delivery: Delivery, next: () => Promise<void>): void | Promise<void>
  /**
   * Marks what moves bytes between event and database: it runs last on emit and first around the handler, so that
   * other middleware sees the payload itself.
   * @default false
   */
  readonly nearStorage?: boolean
}

/** The middleware of one bus, in the order it was given. */
export class MiddlewareChain {
  readonly #outer: Middleware[] = []
  readonly #nearStorage: Middleware[] = []

  use(middleware: Middleware): void {
    if (middleware.nearStorage) this.#nearStorage.push(middleware)
    else this.#outer.push(middleware)
  }

  /** Changes a draft before `checked` looks at it, and moves its payload out of it afterwards. */
  async emit(draft: EventDraft, checked: () => void | Promise<void>): Promise<void> {
    for (const middleware of this.#outer) await middleware.emit?.(draft)
    await checked()
    for (const middleware of this.#nearStorage) await middleware.emit?.(draft)
  }

  /** Runs `handler` inside every middleware. */
  handle(delivery: Delivery, handler: () => void | Promise<void>): void | Promise<void> {
    if (this.#outer.length + this.#nearStorage.length === 0) return handler()
    const layers = [...this.#nearStorage, ...this.#outer]
    const enter = async (depth: number): Promise<void> => {
      const layer = layers[depth]
      if (!layer) await handler()
      else if (layer.handle) await layer.handle(delivery, () => enter(depth + 1))
      else await enter(depth + 1)
    }
    return enter(0)
  }
}
