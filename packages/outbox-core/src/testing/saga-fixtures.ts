import { OutboxEventBus } from '../bus.ts'
import type { Outbox } from '../outbox.ts'
import { type Activity, activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import type { SagaEvents } from '../saga/lifecycle.ts'
import { type RoutingSlip, routingSlip } from '../saga/routing-slip.ts'
import { until } from './harness.ts'

export const RETRY = { maxAttempts: 3, delay: 1, maxDelay: 5 } as const

type Step = Activity<'step', { name: string; pad?: string }, { undo: string }>

/** An engine under test, and what it told. */
export interface World<Tx> {
  readonly bus: OutboxEventBus<SagaEvents, Tx>
  readonly engine: SagaEngine<SagaEvents, Tx>
  readonly step: Step
  /** What ran, in order: `a`, `b`, `undo b`. */
  readonly log: string[]
  /** Names that fail when they run. */
  readonly broken: Set<string>
  /** How slips ended. */
  readonly told: string[]
  slip(...names: string[]): RoutingSlip
  /** Resolves when so many slips have ended. */
  ended(count?: number): Promise<void>
}

/** An engine with one activity that keeps a log and can be broken, and what the engine tells of its slips' ends. */
export function world<Tx, O>(outbox: Outbox<Tx, O>, more: readonly Activity[] = []): World<Tx> {
  const log: string[] = []
  const broken = new Set<string>()
  const step = activity('step', {
    execute({ name, pad = '' }: { name: string; pad?: string }, { variables, step }) {
      log.push(name)
      if (broken.has(name)) throw new Error(`${name} is broken`)
      return {
        log: { undo: name },
        variables: { [`did-${step}`]: name, seen: Object.keys(variables).length, pad },
      }
    },
    compensate({ undo }) {
      log.push(`undo ${undo}`)
      if (broken.has(`undo ${undo}`)) throw new Error(`undo ${undo} is broken`)
    },
  })
  const bus = new OutboxEventBus<SagaEvents, Tx>(outbox as Outbox<Tx>, { poll: { max: 50 } })
  const store = outbox.sagaStore('1d')
  const engine = new SagaEngine({ bus, store, activities: [step, ...more], retry: RETRY })
  const told: string[] = []
  bus.on('saga.completed', ({ payload }) => void told.push(`completed ${payload.slipName}`))
  bus.on('saga.compensated', ({ payload }) => void told.push(`compensated: ${payload.fault.message}`))
  bus.on('saga.terminated', ({ payload }) => void told.push(`terminated: ${payload.reason}`))
  for (const kind of ['saga.stuck', 'saga.compensationFailed'] as const)
    bus.on(kind, ({ payload }) => void told.push(`stuck in ${payload.activity}: ${payload.error}`))
  const slip = (...names: string[]) =>
    names.reduce((building, name) => building.add(step, { name }), routingSlip('test'))
  const ended = (count = 1): Promise<void> => until(() => told.length >= count)
  return { log, broken, step, bus, engine, told, slip, ended }
}
