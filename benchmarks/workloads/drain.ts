import { type Arm, type Database, using } from '../contender.ts'
import { drainRate } from '../deliveries.ts'
import type { Metrics, Workload } from '../measure.ts'

/** Handing out events that are all there, to a handler that does nothing. */
export function draining(database: Database): readonly Workload[] {
  const { ours, alsoOurs = [], floor, naive, peers, drainTarget, sizes } = database
  return [1, 24].map((concurrency) => ({
    name: `drain, concurrency ${concurrency}`,
    database: database.name,
    targets: [{ metric: 'events/s', ofFloor: drainTarget, ofPeers: 1 }],
    trials: [floor, ours, ...alsoOurs, ...peers.drain, naive].map((arm) => ({
      arm: arm.name,
      role: arm.role,
      run: () => drain(arm, sizes, concurrency),
    })),
  }))
}

function drain(arm: Arm, { drain, batch }: Database['sizes'], concurrency: number): Promise<Metrics> {
  const count = Math.ceil(drain * (arm.share ?? 1))
  return using(arm, {}, async (contender) => ({
    'events/s': await drainRate(contender, { count, batch, concurrency }),
  }))
}
