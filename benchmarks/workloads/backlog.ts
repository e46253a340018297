import type { LeasedEvent, Outbox, Outcome } from 'outbox-core'
import { type Arm, type Database, fill, type Ours, using } from '../contender.ts'
import { assertEqual } from '../deliveries.ts'
import { type Metrics, median, timed, type Workload } from '../measure.ts'

const BATCH = 100
const WARM_UP = 20
const BATCHES = 60
const LEASE_MS = 600_000

/** What a lease costs, by how much is waiting. */
export function backlogs({ name, ours, sizes }: Database): Workload {
  // Whoever came first would pay for what the process compiles.
  const warmUp = (): Promise<Metrics> => fromBacklog(ours, (WARM_UP + BATCHES) * BATCH, sizes.batch)
  return {
    name: `lease and settle ${BATCH} from a backlog`,
    database: name,
    atMost: 1,
    targets: [{ metric: 'lease, ms', within: 1.5 }],
    trials: sizes.backlogs.map((backlog) => ({
      arm: `ours, backlog of ${backlog.toLocaleString('en')}`,
      role: ours.role,
      run: () => warmUp().then(() => fromBacklog(ours, backlog, sizes.batch)),
    })),
  }
}

function fromBacklog(arm: Arm<Ours>, backlog: number, batch: number): Promise<Metrics> {
  return using(arm, {}, async (contender) => {
    await fill(contender, backlog, batch)
    const times = { lease: [] as number[], settle: [] as number[] }
    let settled = 0
    for (let round = 0; round < WARM_UP + BATCHES && settled + BATCH <= backlog; round++) {
      let leased: readonly LeasedEvent[] = []
      const { storage } = contender.outbox
      times.lease.push(
        await timed(async () => {
          leased = await storage.lease({
            ...{ limit: BATCH, leaseMs: LEASE_MS },
            addresses: [{ address: 'noop', limit: BATCH }],
          })
        }),
      )
      times.settle.push(await timed(() => complete(contender.outbox, leased)))
      settled += leased.length
    }
    assertEqual('events left', await contender.pending(), backlog - settled)
    return {
      'lease, ms': median(times.lease.slice(WARM_UP)),
      'settling, ms': median(times.settle.slice(WARM_UP)),
    }
  })
}

async function complete({ storage }: Outbox, leased: readonly LeasedEvent[]): Promise<void> {
  const outcomes = leased.map(
    ({ id, attempt }): Outcome => ({
      settle: { kind: 'complete', id, attempt, keepMs: 0 },
      append: [],
      put: [],
      remove: [],
    }),
  )
  const results = await storage.write(outcomes)
  assertEqual('settled', results.filter(({ status }) => status === 'applied').length, leased.length)
}
