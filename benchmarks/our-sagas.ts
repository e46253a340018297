import { activity, OutboxEventBus, routingSlip, SagaEngine, type SagaEvents } from 'outbox-core'
import {
  type Arm,
  inFlight,
  type Ours,
  type SagaArm,
  type SagaPlan,
  type SagaRun,
  using,
} from './contender.ts'
import { assertEqual } from './deliveries.ts'
import { timed } from './measure.ts'

/** Sagas of ours, started while a bus runs them; their end is told by an event of theirs. */
export function ourSagas(arm: Arm<Ours>): SagaArm {
  return {
    name: arm.name,
    role: arm.role,
    run: (plan) => using(arm, {}, (contender) => run(contender, plan)),
  }
}

async function run(contender: Ours, plan: SagaPlan): Promise<SagaRun> {
  const { count, concurrency, variables, fails, startedFirst = false } = plan
  const { outbox } = contender
  const tally = { executed: 0, compensated: 0, ended: 0 }
  const work = activity('work', {
    execute: () => void tally.executed++,
    compensate: () => void tally.compensated++,
  })
  const refuse = activity('refuse', {
    execute() {
      tally.executed++
      throw new Error('refused')
    },
    retry: { maxAttempts: 1 },
  })
  const bus = new OutboxEventBus<SagaEvents>(outbox, { concurrency })
  const engine = new SagaEngine({ bus, store: outbox.sagaStore('7d'), activities: [work, refuse] })
  const all = Promise.withResolvers<void>()
  bus.on(fails ? 'saga.compensated' : 'saga.completed', () => {
    if (++tally.ended === count) all.resolve()
  })
  const slip = routingSlip('bench').variables(variables).add(work, {}).add(work, {})
  const startAll = (): Promise<void> =>
    inFlight(count, concurrency, () => engine.emit(slip.add(fails ? refuse : work, {})))
  if (startedFirst) await startAll()
  const ms = await timed(async () => {
    await bus.start()
    if (!startedFirst) await startAll()
    await all.promise
    await bus.stop()
  })
  assertEqual('events left', await contender.pending(), 0)
  return { ...tally, ms }
}
