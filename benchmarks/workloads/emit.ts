import { type Arm, type Contender, type Database, fill, inFlight, using } from '../contender.ts'
import { assertEqual, drainAll } from '../deliveries.ts'
import { type Metrics, type Target, timed, WARM_UP_SHARE, type Workload } from '../measure.ts'

type Way = 'emit' | 'emitInTransaction' | 'emitMany'

const AT_ONCE = 100
const TARGET: Target = { metric: 'events/s', ofFloor: 0.9 }

/** Writing events: alone, together with a row of the user's own, and 100 in one write. */
export function emitting(database: Database): readonly Workload[] {
  const workload = (name: string, way: Way, concurrency: number): Workload => {
    const { ours, alsoOurs = [], floor, others = [], peers } = database
    return {
      name,
      database: database.name,
      targets: [TARGET],
      trials: [floor, ours, ...alsoOurs, ...others, ...peers.emit].map((arm) => ({
        arm: arm.name,
        role: arm.role,
        run: () => emit(arm, database, way, concurrency),
      })),
    }
  }
  return [
    workload('emit in the caller’s transaction, concurrency 1', 'emitInTransaction', 1),
    workload('emit in the caller’s transaction, concurrency 16', 'emitInTransaction', 16),
    workload('emit outside, concurrency 1', 'emit', 1),
    workload('emit outside, concurrency 16', 'emit', 16),
    workload(`emitMany of ${AT_ONCE}`, 'emitMany', 1),
  ]
}

/** No metrics when the arm can't do it. */
function emit(arm: Arm, { sizes }: Database, way: Way, concurrency: number): Promise<Metrics> {
  return using(arm, {}, async (contender) => {
    if (!contender[way]) return {}
    const count = way === 'emitMany' ? sizes.drain : sizes.emits
    await emitted(contender, way, Math.ceil(count * WARM_UP_SHARE), concurrency)
    return { 'events/s': (count / (await emitted(contender, way, count, concurrency))) * 1000 }
  })
}

/** How many milliseconds it took to emit so many, which are drained afterwards. */
async function emitted(contender: Contender, way: Way, count: number, concurrency: number): Promise<number> {
  const ms = await timed(() =>
    way === 'emitMany'
      ? fill(contender, count, AT_ONCE)
      : inFlight(count, concurrency, (n) => contender[way]?.({ n })),
  )
  assertEqual('events stored', await contender.pending(), count)
  await drainAll(contender, count, 24)
  return ms
}
