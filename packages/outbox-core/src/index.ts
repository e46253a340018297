export {
  type EmitOptions,
  type EventInput,
  type EventOf,
  type EventType,
  type Handler,
  type HandlerContext,
  type HandlerOptions,
  OutboxEventBus,
} from './bus.ts'
export { type ClaimCheckOptions, claimCheck } from './claims/claim-check.ts'
export * from './claims/payload-errors.ts'
export type { EncryptionOptions } from './claims/payload-frame.ts'
export {
  OutboxSagaStore,
  type SagaStoreAdapter,
  type SagaStoreCall,
  type SagaStoreOptions,
} from './claims/saga-store.ts'
export { type Clock, systemClock } from './clock.ts'
export type { DeadLetter, DeadLetterPage, DeadLetterSelection, DeadLetters } from './dead-letters.ts'
export * from './delivering/attempt-errors.ts'
export type { BusOptions } from './delivering/bus-options.ts'
export type { Delivery } from './delivering/delivery.ts'
export type { RetryOptions } from './delivering/retry.ts'
export type { EventDraft, EventOptions, OutboxEvent } from './emitting/event.ts'
export { KeyTurns } from './emitting/key-turns.ts'
export type { Emitted, EventSchemas, Received, SchemaEvents, SchemaPayload } from './emitting/schema.ts'
export * from './errors.ts'
export { consoleLogger, type Logger, silentLogger } from './logger.ts'
export { InMemoryOutbox, type InMemorySagaStore } from './memory/outbox.ts'
export type { InMemoryTransaction } from './memory/transactions.ts'
export type { Middleware } from './middleware.ts'
export { assertMoment, assertMoments } from './moments.ts'
export { type Duration, durationMs, identifier, identifiers, wholeNumber } from './options.ts'
export { Outbox, type OutboxOptions, type OutboxStats } from './outbox.ts'
export {
  type Activity,
  type ActivityContext,
  type ActivityContract,
  type ActivityDefinition,
  type ActivityResult,
  activity,
  activityContract,
  type CompensateContext,
  type ExecuteContext,
  type Fault,
  type Implementation,
  type Variables,
} from './saga/activity.ts'
export { DeadlineError } from './saga/activity-run.ts'
export { SagaEngine, type SagaEngineOptions, type StartOptions } from './saga/engine.ts'
export { type AnyActivity, type ArgsOf, Itinerary, type ItineraryStep, itinerary } from './saga/itinerary.ts'
export type {
  CompensationFailed,
  LifecycleKind,
  SagaCompleted,
  SagaEvents,
  SagaFaulted,
  SagaStuck,
  SagaTerminated,
  SlipEvent,
  StepCompleted,
} from './saga/lifecycle.ts'
export { RoutingSlip, routingSlip } from './saga/routing-slip.ts'
export * from './saga/slip-errors.ts'
export { assertKnownSchema, NewerSchemaError } from './schema-version.ts'
export { type Change, changeBy, keyYielded } from './settlement.ts'
export type {
  Advanced,
  DeadCursor,
  DeadEvent,
  DeadPage,
  DeadQuery,
  Headers,
  Lease,
  LeasedEvent,
  LeaseRequest,
  NewEvent,
  Outcome,
  OutcomeResult,
  PayloadRecord,
  Purged,
  PurgeOptions,
  Settlement,
  SettlementOf,
  Storage,
  StorageLimits,
  StorageStats,
  StoredEvent,
  Waiting,
  When,
} from './storage.ts'
export type { Stored } from './stored.ts'
export { toError } from './thrown.ts'
