import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  activity,
  type Outbox,
  OutboxEventBus,
  PermanentError,
  type RoutingSlip,
  routingSlip,
  SagaEngine,
  type SagaEvents,
} from 'outbox-core'

export const STEPS = 4

/** What a slip is meant to come to: slips whose number ends in 3 fail at their last step. */
export function fails(slipId: string): boolean {
  return slipId.endsWith('3')
}

/** The sagas of the fault tests; every step and every end is a line in the ledger, written before anything else happens. */
export function sagasOn(outbox: Outbox, ledger: string) {
  const note = (line: string): void => appendFileSync(ledger, `${line}\n`)
  const bus = new OutboxEventBus<SagaEvents>(outbox, { lease: '1s', poll: { max: 50 } })
  const step = activity('step', {
    async execute(_: object, { slipId, step }) {
      note(`execute ${slipId} ${step}`)
      await sleep(2)
      return { log: step, variables: { [`step-${step}`]: 'x'.repeat(4_000) } }
    },
    async compensate(done, { slipId }) {
      note(`compensate ${slipId} ${done}`)
      await sleep(2)
    },
    // Attempts that were killed count: none may run out of them.
    retry: { maxAttempts: 50, delay: 1, maxDelay: 5 },
  })
  const last = activity('last-step', {
    async execute(_: object, { slipId, step }) {
      note(`execute ${slipId} ${step}`)
      if (fails(slipId)) throw new PermanentError('meant to fail')
    },
    retry: { maxAttempts: 50, delay: 1, maxDelay: 5 },
  })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('1d'), activities: [step, last] })
  bus.on('saga.completed', ({ payload }) => note(`completed ${payload.slipId}`))
  bus.on('saga.compensated', ({ payload }) => note(`compensated ${payload.slipId}`))
  const slip = (id: string): RoutingSlip => {
    let building = routingSlip('fault', id).variables({ pad: 'p'.repeat(12_000) })
    for (let number = 0; number < STEPS - 1; number++) building = building.add(step, {})
    return building.add(last, {})
  }
  return { bus, engine, slip, note }
}
