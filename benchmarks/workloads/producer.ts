import { type Arm, type Database, using } from '../contender.ts'
import { Deliveries, drainRate } from '../deliveries.ts'
import { emitElsewhere } from '../elsewhere.ts'
import { type Metrics, slope, type Workload } from '../measure.ts'

const CONCURRENCY = 24
const SECONDS = 5
const LOOK_EVERY_MS = 200

/** Another process emits half of what ours can drain: the backlog must not grow. */
export function steadyProducer(database: Database): Workload {
  const { ours } = database
  return {
    name: 'steady producer at half the drain rate',
    database: database.name,
    targets: [{ metric: 'backlog grows by, % of the rate', atMost: 1 }],
    trials: [{ arm: ours.name, role: ours.role, run: () => produce(database, ours) }],
  }
}

function produce({ name, sizes }: Database, arm: Arm): Promise<Metrics> {
  return using(arm, { listen: true }, async (contender) => {
    const drained = { count: sizes.drain, batch: sizes.batch, concurrency: CONCURRENCY }
    const rate = Math.floor((await drainRate(contender, drained)) / 2)
    const count = rate * SECONDS
    const deliveries = new Deliveries(count)
    const stop = await contender.consume(deliveries.handle, CONCURRENCY)
    const backlogs: [number, number][] = []
    const looking = setInterval(async () => {
      const seconds = performance.now() / 1000
      backlogs.push([seconds, await contender.pending()])
    }, LOOK_EVERY_MS)
    const { place } = contender
    const ms = await emitElsewhere({ database: name, arm: arm.name, place, rate, count, batch: sizes.batch })
    clearInterval(looking)
    await deliveries.finished()
    await stop()
    await deliveries.assertExact(contender)
    return {
      'wanted/s': rate,
      'emitted/s': (count / ms) * 1000,
      'backlog grows by, % of the rate': (slope(backlogs) / rate) * 100,
      'largest backlog': Math.max(...backlogs.map(([, backlog]) => backlog)),
    }
  })
}
