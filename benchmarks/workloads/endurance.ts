import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { type Database, using } from '../contender.ts'
import { Deliveries } from '../deliveries.ts'
import { type Metrics, slope, type Workload } from '../measure.ts'

const RATE = 500
const LANES = 10
const LOOK_EVERY_MS = 1_000

/** Ten minutes of a steady load in one process: its memory must not grow. */
export function endurance({ name, ours, sizes }: Database, minutes: number): Workload {
  const rate = Math.min(RATE, sizes.emits / 10)
  return {
    name: `${minutes} minutes at ${rate}/s`,
    database: name,
    atMost: 1,
    targets: [{ metric: 'RSS grows by, MiB/min', atMost: 0.5 }],
    trials: [
      {
        arm: ours.name,
        role: ours.role,
        run: () => using(ours, {}, (contender) => endure(contender, rate, minutes * 60)),
      },
    ],
  }
}

async function endure(
  contender: Parameters<Deliveries['assertExact']>[0],
  rate: number,
  seconds: number,
): Promise<Metrics> {
  const count = Math.round(rate * seconds)
  const deliveries = new Deliveries(count)
  const stop = await contender.consume(deliveries.handle, 24)
  const sizes: [number, number][] = []
  // What V8 has not yet collected is no leak: it puts off what it has the memory to put off.
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const looking = setInterval(() => {
    collect()
    sizes.push([performance.now() / 60_000, process.memoryUsage.rss() / 2 ** 20])
  }, LOOK_EVERY_MS)
  // Each lane waits for its emit: what a busy machine can't keep up with shall not pile up in memory.
  const pauseMs = (LANES / rate) * 1_000
  const lane = async (first: number): Promise<void> => {
    for (let n = first; n < count; n += LANES) await Promise.all([contender.emit({ n }), sleep(pauseMs)])
  }
  await Promise.all(Array.from({ length: LANES }, (_, index) => lane(index)))
  clearInterval(looking)
  await deliveries.finished()
  await stop()
  await deliveries.assertExact(contender)
  // The first half is warming up.
  const settled = sizes.slice(Math.floor(sizes.length / 2))
  return { 'RSS grows by, MiB/min': slope(settled), 'RSS, MiB': sizes.at(-1)?.[1] ?? Number.NaN }
}
