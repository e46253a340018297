import { type LeasedEvent, type Outbox, OutboxEventBus, type Outcome } from 'outbox-core'
import { type Arm, type Database, fill, MOST_KEYED_TOGETHER, type Ours, using } from '../contender.ts'
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

/** What a lease costs, by what waits that it does not take: for others, or behind others. */
export function besides({ name, ours, sizes }: Database): Workload {
  const own = (WARM_UP + BATCHES) * BATCH
  const most = sizes.backlogs.at(-1) ?? 0
  const trial = (what: string, beside: Beside = {}) => ({
    arm: `ours, ${what}`,
    role: ours.role,
    run: () => fromBacklog(ours, own, sizes.batch).then(() => fromBacklog(ours, own, sizes.batch, beside)),
  })
  return {
    name: `lease and settle ${BATCH} beside what is not taken`,
    database: name,
    atMost: 1,
    targets: [{ metric: 'lease, ms', within: 1.5 }],
    trials: [
      trial('nothing else'),
      trial(`${most.toLocaleString('en')} of a type without a handler`, { others: most }),
      trial('100 types handled', { types: 100 }),
      trial('10,000 keys blocked', { keys: 10_000 }),
    ],
  }
}

/** What there is beside what is leased. */
interface Beside {
  /** Events of another type. */
  readonly others?: number
  /** Types that are asked for, most of which there are no events of. */
  readonly types?: number
  /** Keys of another type, each with an event that waits for the one before it. */
  readonly keys?: number
}

function fromBacklog(
  arm: Arm<Ours>,
  backlog: number,
  batch: number,
  { others = 0, types = 1, keys = 0 }: Beside = {},
): Promise<Metrics> {
  return using(arm, {}, async (contender) => {
    await fill(contender, backlog, batch)
    const bus = new OutboxEventBus(contender.outbox)
    const emit = async (count: number, most: number, key?: (n: number) => string): Promise<void> => {
      for (let done = 0; done < count; done += most) {
        const numbers = Array.from({ length: Math.min(most, count - done) }, (_, n) => done + n)
        await bus.emitMany(numbers.map((n) => ({ type: 'other', payload: n, ...(key && { key: key(n) }) })))
      }
    }
    await emit(others, batch)
    await emit(keys * 2, Math.min(batch, MOST_KEYED_TOGETHER), (n) => `key-${n % keys}`)
    const addresses = Array.from({ length: types }, (_, n) => ({
      address: n === 0 ? 'noop' : `none-${n}`,
      limit: BATCH,
    }))
    const times = { lease: [] as number[], settle: [] as number[] }
    let settled = 0
    for (let round = 0; round < WARM_UP + BATCHES && settled + BATCH <= backlog; round++) {
      let leased: readonly LeasedEvent[] = []
      const { storage } = contender.outbox
      times.lease.push(
        await timed(async () => {
          leased = await storage.lease({ limit: BATCH, leaseMs: LEASE_MS, addresses })
        }),
      )
      times.settle.push(await timed(() => complete(contender.outbox, leased)))
      settled += leased.length
    }
    assertEqual('events left', await contender.pending(), backlog + others + keys * 2 - settled)
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
