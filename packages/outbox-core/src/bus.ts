import type { StandardSchemaV1 } from '@standard-schema/spec'
import { type BusOptions, type DispatcherSettings, dispatcherSettings } from './delivering/bus-options.ts'
import type { Delivery } from './delivering/delivery.ts'
import { Dispatcher } from './delivering/dispatcher.ts'
import { Handling, type Registration } from './delivering/handling.ts'
import { type RetryOptions, type RetryPolicy, retryPolicy } from './delivering/retry.ts'
import { Waiters } from './delivering/waiters.ts'
import { Emission } from './emitting/emission.ts'
import { checkedType, EventDraft, type EventOptions, type OutboxEvent } from './emitting/event.ts'
import type { TransactionContext } from './emitting/transaction-context.ts'
import { DuplicateRegistrationError } from './errors.ts'
import type { Logger } from './logger.ts'
import { type Middleware, MiddlewareChain } from './middleware.ts'
import { type Duration, durationMs } from './options.ts'
import type { Outbox } from './outbox.ts'

/** The names of an event map's events. */
export type EventType<Events extends object> = keyof Events & string

/** One event of `emitMany`. */
export type EventInput<Events extends object> = {
  [Type in EventType<Events>]: { readonly type: Type; readonly payload: Events[Type] } & EventOptions
}[EventType<Events>]

/** What `emit` takes beside the payload. */
export interface EmitOptions<Tx = unknown> extends EventOptions {
  /** The transaction to emit in, instead of the ambient one. */
  readonly transaction?: Tx | undefined
}

/** What a handler gets beside its event. */
export interface HandlerContext<Events extends object> {
  /** Aborted when the handler takes too long, its lease is lost, or the bus stops; the reason says which. */
  readonly signal: AbortSignal
  /** 1 for the first attempt. */
  readonly attempt: number
  /** Adds event id, type and attempt to every line. */
  readonly logger: Logger
  /** Emits an event in the write that completes this one: only if the handler succeeds, and exactly once. */
  emit<Type extends EventType<Events>>(
    type: Type,
    payload: Events[Type],
    options?: Omit<EventOptions, 'id'>,
  ): Promise<string>
}

/** Handles one event. Returning completes it, throwing fails the attempt. Called at least once for every event. */
export type Handler<Events extends object, Type extends EventType<Events>> = (
  event: OutboxEvent<Type, Events[Type]>,
  context: HandlerContext<Events>,
) => void | Promise<void>

export interface HandlerOptions {
  /** @default the bus's policy */
  readonly retry?: RetryOptions
  /** @default the bus's `handlerTimeout` */
  readonly timeout?: Duration
}

/**
 * Emits events into an outbox and hands them to their handlers, at least once each.
 *
 * @typeParam Events what each event type carries: `{ 'order.placed': { id: string } }`
 */
export class OutboxEventBus<Events extends object = Record<string, unknown>, Tx = unknown> {
  readonly outbox: Outbox<Tx>
  /** The checked retry policy for event types that have none of their own. */
  readonly retry: RetryPolicy
  readonly settings: DispatcherSettings
  readonly #registrations = new Map<string, Registration>()
  readonly #middleware = new MiddlewareChain()
  readonly #handling: Handling
  readonly #emission: Emission
  readonly #waiters: Waiters
  #dispatcher: Dispatcher | undefined
  #stopping: Promise<void> | undefined

  /** @throws ConfigurationError naming the option and its value */
  constructor(outbox: Outbox<Tx, never>, options: BusOptions<Events> = {}) {
    this.outbox = outbox
    this.retry = retryPolicy(options.retry)
    this.settings = dispatcherSettings(options as Omit<BusOptions, 'schemas'>)
    const schemas = new Map(Object.entries(options.schemas ?? {}) as [string, StandardSchemaV1][])
    const { clock, logger } = outbox
    this.#emission = new Emission(outbox as Outbox, this.#middleware, schemas)
    this.#handling = new Handling({
      registrations: this.#registrations,
      middleware: this.#middleware,
      schemas,
      unknownType: this.retry,
      clock,
      logger,
    })
    this.#waiters = new Waiters(clock)
  }

  /**
   * Registers the handler of an event type.
   *
   * @throws DuplicateRegistrationError when the type has one already
   */
  on<Type extends EventType<Events>>(
    type: Type,
    handler: Handler<Events, Type>,
    options: HandlerOptions = {},
  ): this {
    const { retry, timeout } = options
    return this.register(type, {
      retry: retry ? retryPolicy(retry) : this.retry,
      timeoutMs: timeout === undefined ? this.settings.handlerTimeoutMs : durationMs('timeout', timeout),
      handle: (delivery) =>
        handler(
          delivery as OutboxEvent as OutboxEvent<Type, Events[Type]>,
          delivery as HandlerContext<object> as HandlerContext<Events>,
        ),
    })
  }

  /** Adds middleware. Whatever moves bytes (`nearStorage`) stays closest to the database, the rest in order of use. */
  use(middleware: Middleware): this {
    middleware.attach?.(this as unknown as OutboxEventBus<never>)
    this.#middleware.use(middleware)
    return this
  }

  /**
   * Stores an event: in the transaction around it (`outbox.transaction`, `outbox.enlist`, or `transaction`), else in
   * a write of its own.
   *
   * @returns the event's id
   * @throws InvalidEventError, NotSerializableError, SchemaError, EventTooLargeError, PayloadTooLargeError,
   *   DuplicateEventError, TransactionClosedError, StorageError: nothing is stored then
   */
  emit<Type extends EventType<Events>>(
    type: Type,
    payload: Events[Type],
    options: EmitOptions<Tx> = {},
  ): Promise<string> {
    return this.outbox.participate(options.transaction, async (context) => {
      const draft = new EventDraft(type, payload, options)
      await this.store([draft], context)
      return draft.id
    })
  }

  /**
   * Stores many events in one write: all or none.
   *
   * @returns their ids, in order
   * @throws as `emit` does
   */
  emitMany(
    events: readonly EventInput<Events>[],
    options: { readonly transaction?: Tx } = {},
  ): Promise<readonly string[]> {
    return this.outbox.participate(options.transaction, async (context) => {
      const drafts = events.map((event) => new EventDraft(event.type, event.payload, event))
      await this.store(drafts, context)
      return drafts.map(({ id }) => id)
    })
  }

  /**
   * Begins to take due events and to hand them to their handlers.
   *
   * @throws NotInitializedError when the tables are missing
   */
  async start(): Promise<void> {
    await this.#stopping
    if (this.#dispatcher) return
    this.#dispatcher = new Dispatcher({
      outbox: this.outbox as Outbox,
      settings: this.settings,
      handling: this.#handling,
      emission: this.#emission,
      completed: (delivery) => this.#completed(delivery),
    })
    const { start } = this.#dispatcher
    try {
      await this.outbox.detached(() => start.call(this.#dispatcher))
    } catch (error) {
      this.#dispatcher = undefined
      throw error
    }
  }

  /**
   * Takes no further events, waits for running handlers, aborts their signals when `timeout` has passed, and gives
   * every lease back, so that other workers need not wait for it to run out. A handler that ignores its signal is no
   * longer waited for after a second, a database that does not answer after some more.
   *
   * @param options.timeout how long running handlers may take (default `'20s'`: Kubernetes kills after 30)
   */
  async stop(options: { readonly timeout?: Duration } = {}): Promise<void> {
    const timeoutMs = durationMs('timeout', options.timeout ?? '20s', 0)
    const dispatcher = this.#dispatcher
    this.#dispatcher = undefined
    if (dispatcher) this.#stopping = dispatcher.stop(timeoutMs)
    await this.#stopping
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /**
   * Resolves with the next event of a type that this process completes, its completion written. For tests.
   *
   * @param options.where only an event for which this holds
   * @param options.timeout default `'5s'`
   * @throws TimeoutError
   */
  async waitFor<Type extends EventType<Events>>(
    type: Type,
    options: {
      readonly where?: (event: OutboxEvent<Type, Events[Type]>) => boolean
      readonly timeout?: Duration
    } = {},
  ): Promise<OutboxEvent<Type, Events[Type]>> {
    const where = (options.where ?? (() => true)) as (event: OutboxEvent) => boolean
    const delivery: OutboxEvent = await this.#waiters.wait(
      type,
      where,
      durationMs('timeout', options.timeout ?? '5s'),
    )
    return delivery as OutboxEvent<Type, Events[Type]>
  }

  /** Registers what handles an event type, below the typed surface. Not needed by users. */
  register(type: string, registration: Registration): this {
    checkedType(type)
    if (this.#registrations.has(type)) {
      throw new DuplicateRegistrationError(`event "${type}" has a handler already; one type has one handler`)
    }
    this.#registrations.set(type, registration)
    return this
  }

  /** Whether this process handles an event type. */
  handles(type: string): boolean {
    return this.#registrations.has(type)
  }

  /** Stores drafts, below the typed surface. Not needed by users. */
  store(drafts: readonly EventDraft[], context: TransactionContext<Tx> | undefined): Promise<void> {
    return this.#emission.store(drafts, context as TransactionContext<unknown> | undefined)
  }

  #completed(delivery: Delivery): void {
    for (const callback of delivery.afterSettled) void callback()
    this.#waiters.completed(delivery)
  }
}
