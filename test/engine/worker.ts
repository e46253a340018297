import {
  type Activity,
  type ActivityResult,
  activity,
  itinerary,
  Outbox,
  OutboxEventBus,
  PermanentError,
  type RoutingSlip,
  routingSlip,
  SagaEngine,
  type SagaEvents,
  type Storage,
} from 'outbox-core'
import type { ManualClock } from 'outbox-core/testing'
import type { Book, Phase } from './book.ts'
import { never } from './gate.ts'
import { activityOf } from './model.ts'
import { type Mishap, QUIET, type Script, type Step } from './script.ts'

export const SLIP = 'slip-1'
export const LEASE_MS = 3_600_000
export const DEADLINE_MS = 24 * LEASE_MS

/** What the activities of one worker ask whoever decides what befalls it. */
export interface Fate {
  /** Called when an activity or a compensation begins; does not return where it does not survive that. */
  befall(mishap: Mishap | undefined, isFirst: boolean): Promise<void>
  /** Whether a human has mended what sticks in a step, or in its compensation. */
  mended(phase: Phase, step: number): boolean
}

export interface Worker {
  readonly bus: OutboxEventBus<SagaEvents>
  readonly engine: SagaEngine<SagaEvents>
  emit(script: Script): Promise<string>
}

/** An outbox on a database that others are on as well. */
class SharedOutbox extends Outbox {
  constructor(storage: Storage<unknown>, clock: ManualClock) {
    super(storage, { clock, logger: false })
  }
}

interface Done {
  readonly step: number
  readonly of: Step
}

/** A process: a bus and an engine of its own, whose activities do what the slip's script says. */
export function worker(
  storage: Storage<unknown>,
  clock: ManualClock,
  book: Book,
  fate: Fate,
  attempts: number,
): Worker {
  const retry = { maxAttempts: attempts, delay: '1m', factor: 1, jitter: 0 } as const
  const outbox = new SharedOutbox(storage, clock)
  const bus = new OutboxEventBus<SagaEvents>(outbox, {
    lease: LEASE_MS,
    poll: { min: '10m', max: '30m' },
    handlerTimeout: '10m',
    purgeInterval: '30d',
    retry: { ...retry, maxAttempts: 20 },
  })
  const usual: Activity<'usual', Step, Done> = activity('usual', {
    async execute(step: Step, context): Promise<ActivityResult<Done>> {
      const isFirst = book.ran('execute', context)
      if (!(step.mishap === 'killed by it' && fate.mended('execute', context.step))) {
        await fate.befall(step.mishap, isFirst)
      }
      if (step.way === 'throws' || (step.way === 'flaky' && isFirst)) throw new Error(step.way)
      if (step.way === 'refuses') throw new PermanentError(step.way)
      if (step.way === 'overruns' || (step.way === 'slow' && isFirst)) await never()
      return {
        log: { step: context.step, of: step } satisfies Done,
        variables: { [`did-${context.step}`]: context.step },
        ...(step.way === 'revises' && { revise: context.rest.add(usual, QUIET) }),
        ...(step.way === 'shortens' && { revise: itinerary() }),
        ...(step.way === 'terminates' && { terminate: 'enough' }),
      }
    },
    async compensate({ of, step }: Done, context) {
      if (step !== context.step) throw new PermanentError(`the log of step ${step} came to ${context.step}`)
      const isFirst = book.ran('compensate', context)
      if (!(of.undoMishap === 'killed by it' && fate.mended('compensate', step))) {
        await fate.befall(of.undoMishap, isFirst)
      }
      const fails =
        (of.undo === 'flaky' && isFirst) || (of.undo === 'sticks' && !fate.mended('compensate', step))
      if (fails) throw new Error(of.undo)
    },
  })
  const long = activity('long', { ...usual, timeout: 2 * DEADLINE_MS })
  const plain = activity('plain', { execute: usual.execute })
  const activities = { usual, long, plain }
  const store = outbox.sagaStore('30d', { compression: 'none' })
  const engine = new SagaEngine({
    bus,
    store,
    activities: Object.values(activities),
    retry,
    claims: { threshold: 0 },
  })
  listen(bus, book)
  return {
    bus,
    engine,
    emit({ steps, deadline }) {
      const slip = steps.reduce<RoutingSlip>(
        (building, step) => building.add(activities[activityOf(step)], step),
        routingSlip('model', SLIP),
      )
      return engine.emit(deadline ? slip.deadline(DEADLINE_MS) : slip)
    },
  }
}

function listen(bus: OutboxEventBus<SagaEvents>, book: Book): void {
  bus
    .on('saga.stepCompleted', ({ id, payload: { step, activity: of } }) => {
      book.told.set(id, { kind: 'stepCompleted', step, activity: of })
    })
    .on('saga.stuck', ({ id, payload: { step, activity: of } }) => {
      book.told.set(id, { kind: 'stuck', step, activity: of })
    })
    .on('saga.completed', ({ id, payload: { variables } }) => {
      book.told.set(id, { kind: 'completed', variables })
    })
    .on('saga.terminated', ({ id, payload: { reason, variables } }) => {
      book.told.set(id, { kind: 'terminated', reason, variables })
    })
    .on('saga.faulted', ({ id, payload: { fault } }) => {
      book.told.set(id, { kind: 'faulted', fault: shortened(fault) })
    })
    .on('saga.compensated', ({ id, payload: { fault } }) => {
      book.told.set(id, { kind: 'compensated', fault: shortened(fault) })
    })
    .on('saga.compensationFailed', ({ id, payload: { step, fault } }) => {
      book.told.set(id, { kind: 'compensationFailed', step, fault: shortened(fault) })
    })
}

function shortened({ step, name, activity: of }: { step: number; name: string; activity?: string }): object {
  return { step, name, ...(of !== undefined && { activity: of }) }
}
