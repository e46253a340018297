import type { Fault, Variables } from './activity.ts'

/** What every lifecycle event says. */
export interface SlipEvent {
  readonly slipId: string
  readonly slipName: string
}

export interface StepCompleted extends SlipEvent {
  readonly step: number
  readonly activity: string
}

export interface SagaCompleted extends SlipEvent {
  readonly variables: Variables
}

export interface SagaTerminated extends StepCompleted {
  readonly reason: string
  readonly variables: Variables
}

export interface SagaFaulted extends SlipEvent {
  readonly fault: Fault
}

export interface CompensationFailed extends SagaFaulted {
  readonly step: number
  readonly activity: string
  /** Why the compensation failed; its dead letter can be retried. */
  readonly error: string
}

/** A slip that waits as a dead letter, with nothing compensated: `engine.resume` takes it up again. */
export interface SagaStuck extends SlipEvent {
  /** The step that could not be taken, or not be written down. */
  readonly step: number
  readonly activity?: string
  /** Why. */
  readonly error: string
}

interface Lifecycle {
  readonly stepCompleted: StepCompleted
  readonly completed: SagaCompleted
  readonly terminated: SagaTerminated
  readonly faulted: SagaFaulted
  readonly compensated: SagaFaulted
  readonly compensationFailed: CompensationFailed
  readonly stuck: SagaStuck
}

export type LifecycleKind = keyof Lifecycle

export const LIFECYCLE_KINDS: readonly LifecycleKind[] = [
  'stepCompleted',
  'completed',
  'terminated',
  'faulted',
  'compensated',
  'compensationFailed',
  'stuck',
]

/**
 * The lifecycle events of an engine, for the bus's event map: `MyEvents & SagaEvents`. `bus.on` for one of them makes
 * the engine tell of it, for every slip that is started or ends here, in the same write as the transition.
 *
 * @typeParam Engine the engine's `name`
 */
export type SagaEvents<Engine extends string = 'saga'> = {
  [Kind in LifecycleKind as `${Engine}.${Kind}`]: Lifecycle[Kind]
}

/** One lifecycle event to emit. */
export type LifecycleEvent = {
  [Kind in LifecycleKind]: { readonly kind: Kind; readonly payload: Lifecycle[Kind] }
}[LifecycleKind]
