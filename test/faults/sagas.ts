import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  activity,
  type BusOptions,
  type Outbox,
  OutboxEventBus,
  PermanentError,
  type RoutingSlip,
  routingSlip,
  SagaEngine,
  type SagaEvents,
} from 'outbox-core'
import { SECRET } from './leaks.ts'

export const STEPS = 4

// Attempts that were killed count: none may run out of them, nor may the events that end a slip.
const PERSISTENT = { maxAttempts: 1_000, delay: 1, maxDelay: 5 }

/** An event of no saga; what it carries beside its id changes when nothing of it was written. */
export interface PlainEvents {
  plain: { id: string; version: number; secret: string }
}

export interface SagaSettings {
  readonly bus?: Pick<BusOptions, 'lease' | 'concurrency' | 'batchSize'> | undefined
  /** Called in the middle of every activity and every compensation. */
  readonly midway?: (phase: 'execute' | 'compensate', slipId: string) => void | Promise<void>
}

/** What a slip is meant to come to: slips whose number ends in 3 fail at their last step. */
export function fails(slipId: string): boolean {
  return slipId.endsWith('3')
}

/** The sagas of the fault tests; every step and every end is a line in the ledger, written before anything else happens. */
export function sagasOn(outbox: Outbox, ledger: string, { bus: options, midway }: SagaSettings = {}) {
  const note = (line: string): void => appendFileSync(ledger, `${line}\n`)
  const bus = new OutboxEventBus<SagaEvents & PlainEvents>(outbox, {
    lease: '1s',
    poll: { max: 50 },
    retry: PERSISTENT,
    ...options,
  })
  const step = activity('step', {
    async execute(_: object, { slipId, step }) {
      note(`execute ${slipId} ${step}`)
      await sleep(2)
      await midway?.('execute', slipId)
      return { log: step, variables: { [`step-${step}`]: 'x'.repeat(4_000) } }
    },
    async compensate(done, { slipId }) {
      note(`compensate ${slipId} ${done}`)
      await sleep(2)
      await midway?.('compensate', slipId)
    },
    retry: PERSISTENT,
  })
  const last = activity('last-step', {
    async execute(_: object, { slipId, step }) {
      note(`execute ${slipId} ${step}`)
      if (fails(slipId)) throw new PermanentError('meant to fail')
    },
    retry: PERSISTENT,
  })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step, last] })
  bus.on('plain', ({ payload }) => note(`handled ${payload.id}`))
  bus.on('saga.completed', ({ payload }) => note(`completed ${payload.slipId}`))
  bus.on('saga.compensated', ({ payload }) => note(`compensated ${payload.slipId}`))
  const slip = (id: string): RoutingSlip => {
    let building = routingSlip('fault', id).variables({ secret: SECRET, pad: 'p'.repeat(12_000) })
    for (let number = 0; number < STEPS - 1; number++) building = building.add(step, {})
    return building.add(last, {})
  }
  return { bus, engine, slip, note }
}
