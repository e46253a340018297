import { randomUUID } from 'node:crypto'
import { PayloadCodec } from '../../packages/outbox-core/src/claims/payload-frame.ts'
import { type Arm, type Database, type PayloadStore, using } from '../contender.ts'
import { assertEqual } from '../deliveries.ts'
import { type Metrics, timed, type Workload } from '../measure.ts'
import { realBytes } from '../payloads.ts'

const SIZES = [
  { name: '2 KB', bytes: 2_000, share: 1 },
  { name: '10 KB', bytes: 10_000, share: 1 },
  { name: '100 KB', bytes: 100_000, share: 0.2 },
  { name: '1 MB', bytes: 1_000_000, share: 0.04 },
]

const LARGEST = 16 * 1024 * 1024

/** Payloads there and back: ours compressed and checked, by hand as they are. No metrics for what an arm can't take. */
export function storing({ name, ours, floor, sizes }: Database): readonly Workload[] {
  return SIZES.map((size) => ({
    name: `saga store, ${size.name}`,
    database: name,
    trials: [floor, ours].map((arm) => ({
      arm: arm.name,
      role: arm.role,
      run: () => store(arm, realBytes(size.bytes), Math.ceil(sizes.payloads * size.share)),
    })),
  }))
}

function store(arm: Arm, data: Uint8Array, count: number): Promise<Metrics> {
  return using(arm, {}, async ({ store }) => {
    if (!store || data.byteLength > (store.limit ?? Number.POSITIVE_INFINITY)) return {}
    const ids = Array.from({ length: count }, () => randomUUID())
    const putMs = await timed(() => each(ids, (id) => store.put(id, data)))
    const getMs = await timed(() => each(ids, (id) => store.get(id)))
    const metrics = { 'put, ms': putMs / count, 'get, ms': getMs / count }
    if (arm.role !== 'ours') return metrics
    await assertSame(store, ids[0] ?? '', data)
    return { ...metrics, ...(await codec(data, count)) }
  })
}

async function assertSame(store: PayloadStore, id: string, data: Uint8Array): Promise<void> {
  assertEqual('bytes that differ', Buffer.compare((await store.get(id)) as Uint8Array, data), 0)
}

/** What of it is spent on compressing and checking. */
async function codec(data: Uint8Array, count: number): Promise<Metrics> {
  const codec = new PayloadCodec({ maxBytes: LARGEST })
  const frame = await codec.encode(data, 'claim')
  const rounds = Array.from({ length: count })
  const encodeMs = await timed(() => each(rounds, () => codec.encode(data, 'claim')))
  const decodeMs = await timed(() => each(rounds, () => codec.decode(frame, 'claim')))
  return { 'encode, ms': encodeMs / count, 'decode, ms': decodeMs / count }
}

async function each<T>(values: readonly T[], work: (value: T) => unknown): Promise<void> {
  for (const value of values) await work(value)
}
