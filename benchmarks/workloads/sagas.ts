import type { Database, SagaArm, SagaPlan, SagaRun } from '../contender.ts'
import { assertEqual } from '../deliveries.ts'
import { type Metrics, WARM_UP_SHARE, type Workload } from '../measure.ts'
import { ourSagas } from '../our-sagas.ts'
import { realObjects } from '../payloads.ts'

const SLIPS = [
  { name: '1 KB slips', bytes: 1_000, share: 1 },
  { name: '50 KB slips', bytes: 50_000, share: 0.25 },
]

/** Sagas of three activities, and such as are compensated because the third one fails. */
export function sagas({ name, ours, peers, sizes }: Database): readonly Workload[] {
  const arms = [ourSagas(ours), ...peers.sagas]
  return SLIPS.flatMap((slips) =>
    [false, true].flatMap((fails) =>
      [1, 20].map((concurrency): Workload => {
        const count = Math.ceil(sizes.sagas * slips.share * (concurrency === 1 ? 0.5 : 1))
        const plan = { count, concurrency, variables: { order: realObjects(slips.bytes) }, fails }
        const what = fails ? 'compensated sagas' : 'three-step sagas'
        return {
          name: `${what}, ${slips.name}, concurrency ${concurrency}`,
          database: name,
          targets: [{ metric: 'steps/s', ofPeers: 5 }],
          trials: arms.map((arm) => ({ arm: arm.name, role: arm.role, run: () => run(arm, plan) })),
        }
      }),
    ),
  )
}

/** What one worker makes of sagas that wait: how fast steps are, when nothing else is. */
export function startedSagas({ name, ours, sizes }: Database): Workload {
  const plan = { count: sizes.sagas, concurrency: 20, variables: {}, fails: false, startedFirst: true }
  const arm = ourSagas(ours)
  return {
    name: 'three-step sagas, started before the clock',
    database: name,
    targets: [{ metric: 'steps/s', atLeast: 10_000 }],
    trials: [{ arm: arm.name, role: arm.role, run: () => run(arm, plan) }],
  }
}

/** A step is one call: of an activity, whether it fails or not, or of a compensation. */
async function run(arm: SagaArm, plan: SagaPlan): Promise<Metrics> {
  await runExactly(arm, { ...plan, count: Math.ceil(plan.count * WARM_UP_SHARE) })
  const { executed, compensated, ms } = await runExactly(arm, plan)
  return { 'steps/s': ((executed + compensated) / ms) * 1000 }
}

async function runExactly(arm: SagaArm, plan: SagaPlan): Promise<SagaRun> {
  const saga = await arm.run(plan)
  assertEqual('sagas ended', saga.ended, plan.count)
  assertEqual('activities', saga.executed, plan.count * 3)
  assertEqual('compensations', saga.compensated, plan.fails ? plan.count * 2 : 0)
  return saga
}
