import {
  activity,
  type Duration,
  Outbox,
  OutboxEventBus,
  PermanentError,
  RetryLaterError,
  routingSlip,
  SagaEngine,
  type SagaEvents,
  type SagaStoreAdapter,
  type Storage,
} from 'outbox-core'
import type { ManualClock } from 'outbox-core/testing'
import { LEASE_MS } from './faults.ts'
import type { Ledger, Run } from './ledger.ts'
import { CountedClock } from './timers.ts'

/** What the handler of an event does. */
export const WAYS = ['succeeds', 'fails once', 'fails for good', 'emits late', 'takes long'] as const

export type Way = (typeof WAYS)[number]

interface GeneratedEvents extends SagaEvents {
  readonly work: { readonly way: Way }
  readonly next: { readonly n: number }
}

/** How many events a handler emits. */
export const EMITS = 2
/** Longer than a lease lasts by itself. */
const LONG_MS = LEASE_MS * 2.3
const PREPARING_MS = 700
const SLIP = 'slip-1'
/** Long enough between two attempts at an activity for its slip's start to be kept anew. */
export const ACTIVITY_PAUSE_MS = 20 * 60_000

// More than can be lost: a worker that dies and one whose lease runs out leave the same trace, an attempt without a report.
const RETRY = { maxAttempts: 100, delay: '5s', factor: 1, jitter: 0 } as const

export interface Worker {
  readonly outbox: Outbox
  readonly bus: OutboxEventBus<GeneratedEvents>
  readonly clock: CountedClock
  emitSlip(): Promise<string>
}

export interface WorkerParts {
  readonly name: string
  readonly storage: Storage<unknown>
  readonly time: ManualClock
  readonly ledger: Ledger
  readonly maxPoll: Duration
  /** Where slips are, instead of the outbox's own database. */
  readonly store?: SagaStoreAdapter | undefined
}

class SharedOutbox extends Outbox {
  constructor(storage: Storage<unknown>, clock: CountedClock) {
    super(storage, { clock, logger: false })
  }
}

/** A process: an outbox, a bus and an engine of its own, on a storage that others are on as well. */
export function worker({ name, storage, time, ledger, maxPoll, store }: WorkerParts): Worker {
  const clock = new CountedClock(time)
  const outbox = new SharedOutbox(storage, clock)
  const bus = new OutboxEventBus<GeneratedEvents>(outbox, {
    concurrency: 3,
    batchSize: 4,
    lease: LEASE_MS,
    poll: { min: 100, max: maxPoll },
    handlerTimeout: '2m',
    purgeInterval: '20s',
    retry: RETRY,
  })
  const pause = (ms: number): Promise<void> => new Promise((resolve) => time.after(ms, resolve))
  bus.use({
    async emit({ headers }) {
      if (headers['slow']) await pause(PREPARING_MS)
    },
  })
  const handled = async (run: Run, work: () => Promise<void>): Promise<void> => {
    try {
      await work()
      run.end = 'succeeded'
    } catch (error) {
      run.end = 'failed'
      throw error
    }
  }
  bus.on('work', ({ id, headers, payload: { way } }, { signal, emit }) => {
    const key = headers['key'] ?? ''
    const run = ledger.begin({ worker: name, key, eventId: id, signal })
    const child = { parent: key, run: String(run.number) }
    return handled(run, async () => {
      if (way === 'takes long') await Promise.race([pause(LONG_MS), aborted(signal)])
      await emit('next', { n: 1 }, { headers: child })
      void emit('next', { n: 2 }, { headers: { ...child, slow: 'yes' }, delay: '2s' })
      const failures = ledger.failures(key)
      if (way === 'emits late' && failures === 0)
        time.after(1, () => void emit('next', { n: 3 }, { headers: child }))
      if (way === 'fails for good') throw failures > 0 ? new PermanentError(way) : new Error(way)
      if (way !== 'succeeds' && way !== 'takes long' && failures === 0) throw new Error(way)
    })
  })
  bus.on('next', ({ id }, { signal }) => {
    const run = ledger.begin({ worker: name, key: id, eventId: id, signal })
    return handled(run, async () => {})
  })
  return {
    outbox,
    bus,
    clock,
    emitSlip: slips(bus, ledger, store ?? outbox.sagaStore('30m', { compression: 'none' })),
  }
}

function slips(
  bus: OutboxEventBus<GeneratedEvents>,
  ledger: Ledger,
  store: SagaStoreAdapter,
): () => Promise<string> {
  const reserve = activity('reserve', {
    execute() {
      ledger.steps.push('reserve')
      return { log: { reserved: 1 } }
    },
    compensate() {
      ledger.steps.push('release')
    },
  })
  const charge = activity('charge', {
    execute() {
      const again = ledger.steps.includes('charge')
      ledger.steps.push('charge')
      throw again ? new PermanentError('declined') : new RetryLaterError('not reached', ACTIVITY_PAUSE_MS)
    },
  })
  const engine = new SagaEngine({
    bus,
    store,
    activities: [reserve, charge],
    retry: RETRY,
    claims: { threshold: 0, ttl: '30m' },
  })
  bus.on('saga.faulted', ({ payload }) => void ledger.steps.push(`${payload.fault.activity} failed`))
  bus.on('saga.compensated', () => void ledger.steps.push('compensated'))
  return () => engine.emit(routingSlip('order', SLIP).add(reserve).add(charge))
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
