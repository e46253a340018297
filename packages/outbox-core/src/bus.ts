import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { Attempt } from './delivering/attempt.ts'
import { type BusOptions, type DispatcherSettings, dispatcherSettings } from './delivering/bus-options.ts'
import { Dispatcher } from './delivering/dispatcher.ts'
import { type Handle, type HandlerOptions, Handlers } from './delivering/handlers.ts'
import { Handling } from './delivering/handling.ts'
import { Registrations } from './delivering/registrations.ts'
import { type RetryPolicy, retryPolicy } from './delivering/retry.ts'
import { Waiters } from './delivering/waiters.ts'
import { Worker } from './delivering/worker.ts'
import { Emission } from './emitting/emission.ts'
import { Draft, type EventOptions, type OutboxEvent } from './emitting/event.ts'
import type { OutboxCore } from './emitting/outbox-core.ts'
import type { Emitted, Received } from './emitting/schema.ts'
import type { Logger } from './logger.ts'
import { type Middleware, MiddlewareChain, PayloadMover } from './middleware.ts'
import { type Duration, durationMs } from './options.ts'
import { coreOf, type Outbox } from './outbox.ts'

/** The names of an event map's events. */
export type EventType<Events extends object> = keyof Events & string

/** One event of `emitMany`. */
export type EventInput<Events extends object> = {
  [Type in EventType<Events>]: { readonly type: Type; readonly payload: Emitted<Events[Type]> } & EventOptions
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
    payload: Emitted<Events[Type]>,
    options?: Omit<EventOptions, 'id'>,
  ): Promise<string>
}

/** An event of one of several types, told apart by its `type`. */
export type EventOf<Events extends object, Type extends EventType<Events>> = Type extends unknown
  ? OutboxEvent<Type, Received<Events[Type]>>
  : never

/**
 * Handles one event. Returning completes it, whatever is returned; throwing fails the attempt. Called at least once for
 * every event.
 */
export type Handler<Events extends object, Type extends EventType<Events>> = (
  event: EventOf<Events, Type>,
  context: HandlerContext<Events>,
) => unknown

export type { HandlerOptions } from './delivering/handlers.ts'

/** What stands behind the face of a bus; for the rooms of core only. */
export interface BusParts {
  readonly core: OutboxCore
  readonly settings: DispatcherSettings
  readonly registrations: Registrations
  readonly emission: Emission
}

export let partsOf: <Events extends object, Tx>(bus: OutboxEventBus<Events, Tx>) => BusParts

/**
 * Emits events into an outbox and hands them to their handlers, at least once each.
 *
 * @typeParam Events what each event type carries: `{ 'order.placed': { id: string } }`, or `SchemaEvents<typeof schemas>`.
 *   Handlers get it as JSON gives it back (`Stored`): a Date as text
 */
export class OutboxEventBus<Events extends object = Record<string, unknown>, Tx = unknown> {
  readonly outbox: Outbox<Tx>
  readonly #core: OutboxCore<Tx>
  readonly #retry: RetryPolicy
  readonly #settings: DispatcherSettings
  readonly #registrations = new Registrations()
  readonly #middleware = new MiddlewareChain()
  readonly #emission: Emission
  readonly #handlers: Handlers
  readonly #waiters: Waiters
  readonly #worker: Worker

  static {
    partsOf = (bus) => ({
      core: bus.#core as OutboxCore,
      settings: bus.#settings,
      registrations: bus.#registrations,
      emission: bus.#emission,
    })
  }

  /** @throws ConfigurationError naming the option and its value */
  constructor(outbox: Outbox<Tx, never>, options: BusOptions<Events> = {}) {
    this.outbox = outbox
    this.#core = coreOf(outbox)
    this.#retry = retryPolicy(options.retry)
    const core = this.#core as OutboxCore
    this.#settings = dispatcherSettings(options as Omit<BusOptions, 'schemas'>, core.storage)
    const middleware = this.#middleware
    const schemas = new Map(Object.entries(options.schemas ?? {}) as [string, StandardSchemaV1][])
    const required = options.requireTransaction ?? false
    const needsTransaction = (type: string): boolean =>
      typeof required === 'boolean' ? required : required.includes(type)
    this.#emission = new Emission({ core, middleware, schemas, needsTransaction })
    const handling = new Handling({
      ...{ middleware, schemas, emission: this.#emission, registrations: this.#registrations },
      ...{ retry: this.#retry, settings: this.#settings, clock: core.clock, logger: core.logger },
    })
    const registrations = this.#registrations
    this.#handlers = new Handlers({ registrations, settings: this.#settings, retry: this.#retry })
    this.#waiters = new Waiters(core.clock)
    const completed = (attempt: Attempt): void => this.#completed(attempt)
    this.#worker = new Worker(
      () => new Dispatcher({ core, settings: this.#settings, handling, registrations, completed }),
      handling,
    )
  }

  /**
   * Registers the handler of an event type, of several, or with `'*'` of all that have no handler of their own (sagas'
   * steps, and events for named handlers, are for those alone). This process takes events of the types it has handlers
   * for, and leaves others to processes that have them; a handler that is added while the bus runs counts at once.
   *
   * @throws DuplicateRegistrationError when the type has one already, and one of both has no `name`
   */
  on(
    types: '*',
    handler: (event: OutboxEvent, context: HandlerContext<Events>) => unknown,
    options?: HandlerOptions,
  ): this
  on<Type extends EventType<Events>>(
    types: Type | readonly Type[],
    handler: Handler<Events, Type>,
    options?: HandlerOptions,
  ): this
  on(types: string | readonly string[], handler: unknown, options: HandlerOptions = {}): this {
    this.#handlers.add(types, handler as Handle, options)
    this.#core.wake.after(0)
    return this
  }

  /** Adds middleware, outermost first. `claimCheck` stays closest to the database, wherever it comes. */
  use(middleware: Middleware): this {
    if (middleware instanceof PayloadMover) {
      middleware.attach(this.#core as OutboxCore, this.#retry.horizonMs)
    }
    this.#middleware.use(middleware)
    return this
  }

  /**
   * Stores an event: in the transaction around it (`outbox.transaction`, `outbox.enlist`, or `transaction`), else in
   * a write of its own. The payload is taken at the call: an object that is changed later does not change the event.
   *
   * @returns the event's id
   * @throws InvalidEventError, NotSerializableError, SchemaError, EventTooLargeError, PayloadTooLargeError,
   *   DuplicateEventError, TransactionMissingError (`requireTransaction`), TransactionClosedError,
   *   ForeignTransactionError, StorageError: nothing is stored then. In a transaction, a failure that nobody handles
   *   fails the commit
   */
  emit<Type extends EventType<Events>>(
    type: Type,
    payload: Emitted<Events[Type]>,
    options: EmitOptions<Tx> = {},
  ): Promise<string> {
    return this.#core.participate(options.transaction, (context) => {
      const draft = new Draft(type, payload, options)
      return this.#emission.store([{ draft, payload }], context as never).then(() => draft.id)
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
    return this.#core.participate(options.transaction, (context) => {
      const drafts = events.map((event) => ({
        draft: new Draft(event.type, event.payload, event),
        payload: event.payload,
      }))
      return this.#emission.store(drafts, context as never).then(() => drafts.map(({ draft }) => draft.id))
    })
  }

  /**
   * Begins to take due events and to hand them to their handlers. A bus that is starting or running goes on with that;
   * one that is stopping starts once it has stopped, unless `stop` is called again meanwhile.
   *
   * @throws NotInitializedError when the tables are missing; the bus is stopped then
   */
  start(): Promise<void> {
    return this.#worker.start()
  }

  /**
   * Takes no further events, waits for running handlers, aborts their signals when `timeout` has passed, and gives
   * every lease back, so that other workers need not wait for it to run out. A handler that ignores its signal is no
   * longer waited for after a second, a database that does not answer after some more. A bus that is starting is
   * stopped as soon as its database has answered, and `start` resolves.
   *
   * Called inside a handler of this process it begins to stop and does not wait, since the handler itself is among what
   * is waited for.
   *
   * @param options.timeout how long running handlers may take (default `'20s'`: Kubernetes kills after 30)
   */
  async stop(options: { readonly timeout?: Duration } = {}): Promise<void> {
    await this.#worker.stop(durationMs('timeout', options.timeout ?? '20s', 0))
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
      readonly where?: (event: OutboxEvent<Type, Received<Events[Type]>>) => boolean
      readonly timeout?: Duration
    } = {},
  ): Promise<OutboxEvent<Type, Received<Events[Type]>>> {
    const where = (options.where ?? (() => true)) as (event: OutboxEvent) => boolean
    const event = await this.#waiters.wait(type, where, durationMs('timeout', options.timeout ?? '5s'))
    return event as OutboxEvent<Type, Received<Events[Type]>>
  }

  #completed(attempt: Attempt): void {
    void attempt.afterSettled?.()
    // What goes on to handlers of their own is completed by those.
    if (!this.#registrations.get(attempt.leased.address)?.fansOut) this.#waiters.completed(attempt)
  }
}
