import { type Arm, type Database, MOST_KEYED_TOGETHER, using } from '../contender.ts'
import { drainRate } from '../deliveries.ts'
import type { Metrics, Workload } from '../measure.ts'

const CONCURRENCY = 24
const MANY_KEYS = 10_000

// One key goes one event at a time.
const SHARE_OF_ONE_KEY = 0.25

/** Handing out events that have keys, each key in order. */
export function keyed(database: Database): readonly Workload[] {
  const { name, ours, oneKeyByHand, peers, sizes } = database
  const trial = (arm: Arm, as: Pick<Arm, 'name' | 'role'>, keys?: number) => ({
    arm: as.name,
    role: as.role,
    run: () => drain(arm, sizes, keys),
  })
  return [
    {
      name: `drain of ${MANY_KEYS.toLocaleString('en')} keys`,
      database: name,
      targets: [{ metric: 'events/s', ofFloor: 0.7, ofPeers: 1 }],
      trials: [
        trial(ours, { name: 'ours, no keys', role: 'floor' }),
        trial(ours, ours, MANY_KEYS),
        ...(peers.keyed ?? []).map((arm) => trial(arm, arm, MANY_KEYS)),
      ],
    },
    {
      name: 'drain of one key',
      database: name,
      targets: [{ metric: 'events/s', ofFloor: 0.5, ofPeers: 1 }],
      trials: [
        ...(oneKeyByHand ? [trial(oneKeyByHand, oneKeyByHand, 1)] : []),
        trial(ours, ours, 1),
        ...(peers.keyed ?? []).map((arm) => trial(arm, arm, 1)),
      ],
    },
  ]
}

function drain(arm: Arm, sizes: Database['sizes'], keys: number | undefined): Promise<Metrics> {
  const share = (keys === 1 ? SHARE_OF_ONE_KEY : 1) * (arm.share ?? 1)
  const count = Math.ceil(sizes.drain * share)
  return using(arm, keys === undefined ? {} : { keys }, async (contender) => ({
    'events/s': await drainRate(contender, {
      count,
      batch: Math.min(sizes.batch, MOST_KEYED_TOGETHER),
      concurrency: CONCURRENCY,
    }),
  }))
}
