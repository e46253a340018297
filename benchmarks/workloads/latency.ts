import { machineMs } from '../clock.ts'
import { type Arm, type Database, using } from '../contender.ts'
import { Deliveries } from '../deliveries.ts'
import { emitElsewhere } from '../elsewhere.ts'
import { type Metrics, percentile, type Workload } from '../measure.ts'

const CONCURRENCY = 24
const WARM_UP_SECONDS = 1
const LEAST_EVENTS = 1_000
const LEAST_SECONDS = 4

/** An open loop: one process emits at a steady rate, another one handles. From emit to handler. */
export function latencies(database: Database): readonly Workload[] {
  const { ours, peers, sizes } = database
  return sizes.openLoop.map((rate) => ({
    name: `open loop at ${rate}/s`,
    database: database.name,
    targets: ['p50, ms', 'p99, ms'].map((metric) => ({ metric, lowerIsBetter: true, ofPeers: 1 })),
    trials: [ours, ...peers.latency].map((arm) => ({
      arm: arm.name,
      role: arm.role,
      run: () => latency(database, arm, rate),
    })),
  }))
}

function latency({ name }: Database, arm: Arm, rate: number): Promise<Metrics> {
  const seconds = WARM_UP_SECONDS + Math.max(LEAST_SECONDS, Math.ceil(LEAST_EVENTS / rate))
  const count = rate * seconds
  return using(arm, { listen: true }, async (contender) => {
    const deliveries = new Deliveries(count)
    const samples: number[] = []
    const stop = await contender.consume((payload) => {
      if (payload.n >= rate * WARM_UP_SECONDS) samples.push(machineMs() - (payload.at ?? Number.NaN))
      deliveries.handle(payload)
    }, CONCURRENCY)
    await emitElsewhere({ database: name, arm: arm.name, place: contender.place, rate, count, batch: 1 })
    await deliveries.finished()
    await stop()
    await deliveries.assertExact(contender)
    return {
      'p50, ms': percentile(samples, 0.5),
      'p99, ms': percentile(samples, 0.99),
      'p99.9, ms': percentile(samples, 0.999),
    }
  })
}
