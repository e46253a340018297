import { setTimeout as sleep } from 'node:timers/promises'
import type { Outbox } from 'outbox-core'
import type { Role } from './measure.ts'

/** What one event carries: its number, and when it was emitted where that is measured. */
export interface Payload {
  readonly n: number
  readonly at?: number
}

export type Handle = (payload: Payload) => void

/** One way of having an outbox, open on a place of its own: ours, a raw driver by hand, a peer. */
export interface Contender {
  /** Where its events are, for another process to open. */
  readonly place: string
  /** In a write of its own. */
  emit(payload: Payload): unknown
  /** Together with one row of the user's own, in one transaction; absent where that can't be done. */
  emitInTransaction?(payload: Payload): unknown
  /** All in one write. */
  emitMany(payloads: readonly Payload[]): unknown
  /** Hands events to `handle` until the returned function is called. */
  consume(handle: Handle, concurrency: number): Promise<() => Promise<void>>
  /** How many events are not handled yet. */
  pending(): Promise<number>
  /** Where payloads are kept; absent where there is no such thing. */
  readonly store?: PayloadStore
  /** Lets go of the place, and removes it where `open` made it. */
  close(): Promise<void>
}

export interface PayloadStore {
  /** Bytes; absent where it takes more than is measured. */
  readonly limit?: number
  put(id: string, data: Uint8Array): unknown
  get(id: string): unknown
}

/** Ours, with what only it has. */
export interface Ours extends Contender {
  readonly outbox: Outbox
}

export interface OpenOptions {
  /** A place that is there already, of another process. @default a fresh one */
  readonly place?: string | undefined
  /** Takes a connection for wake-ups from other processes. @default false */
  readonly listen?: boolean
  /** Called for every call of the driver. */
  readonly onCall?: () => void
  /** Events belong to so many keys, in turn, each of which is to be handled in order. @default to none */
  readonly keys?: number
}

/** The key of an event, where events have so many. */
export function keyOf({ n }: Payload, keys: number): string {
  return `key-${n % keys}`
}

/** A contender that can be opened again and again. */
export interface Arm<Open extends Contender = Contender> {
  readonly name: string
  readonly role: Role
  /** For slow ones: which share of a workload is enough for a figure. @default 1 */
  readonly share?: number
  open(options?: OpenOptions): Promise<Open>
}

/** How much of each workload gives a figure within a second or so. */
interface Sizes {
  readonly emits: number
  readonly drain: number
  readonly sagas: number
  /** Of the smallest size; fewer of larger ones. */
  readonly payloads: number
  /** A second. */
  readonly openLoop: readonly number[]
  readonly backlogs: readonly number[]
  /** Most events of one write. */
  readonly batch: number
}

/** A server and everything that is measured on it. */
export interface Database {
  readonly name: string
  readonly ours: Arm<Ours>
  /** The raw driver by hand, with the tables of ours, the same durability, and leases fenced as ours are. */
  readonly floor: Arm
  /** The floor, one event at a time: the loop that everyone writes first. */
  readonly naive: Arm
  /** Ours through another driver. */
  readonly alsoOurs?: readonly Arm[]
  /** Only there to compare: the floor through an ORM, say. */
  readonly others?: readonly Arm[]
  readonly peers: {
    readonly emit: readonly Arm[]
    readonly drain: readonly Arm[]
    readonly latency: readonly Arm[]
    readonly sagas: readonly SagaArm[]
    /** Those that keep the order of a key. */
    readonly keyed?: readonly Arm[]
  }
  /** Takes 100 rows of a single key, handles them one after the other, and deletes them at once. */
  readonly oneKeyByHand?: Arm
  readonly sizes: Sizes
  /** Of what a drain by hand reaches: the target. */
  readonly drainTarget: number
  /** The server's version and the settings that durability depends on. */
  describe(): Promise<Readonly<Record<string, string>>>
}

/** Every arm that can be opened, by name: what another process needs to find its own. */
export function armsOf({
  ours,
  alsoOurs = [],
  floor,
  naive,
  others = [],
  peers,
}: Database): ReadonlyMap<string, Arm> {
  const arms: readonly Arm[] = [
    floor,
    ours,
    ...alsoOurs,
    naive,
    ...others,
    ...peers.emit,
    ...peers.drain,
    ...peers.latency,
  ]
  return new Map(arms.map((arm) => [arm.name, arm]))
}

/** Sagas of three activities; with `fails`, the last one fails, and the other two are compensated. */
export interface SagaPlan {
  readonly count: number
  /** Sagas that are started, and activities that run, at the same time. */
  readonly concurrency: number
  /** What every saga carries. */
  readonly variables: Readonly<Record<string, unknown>>
  readonly fails: boolean
  /** Whether all are started before any of them runs, and before the clock does. @default false */
  readonly startedFirst?: boolean
}

/** What was called how often, and how long all of it took, from the first start to the last end. */
export interface SagaRun {
  readonly executed: number
  readonly compensated: number
  readonly ended: number
  readonly ms: number
}

/** One way of running sagas. */
export interface SagaArm {
  readonly name: string
  readonly role: Role
  run(plan: SagaPlan): Promise<SagaRun>
}

/** Makes arms of contenders that are opened in the same way. */
export function armsOn<Opened>(
  open: (options: OpenOptions) => Opened | Promise<Opened>,
): (name: string, role: Role, contender: (opened: Opened) => Contender) => Arm {
  return (name, role, contender) => ({
    name,
    role,
    open: async (options = {}) => contender(await open(options)),
  })
}

/** Opens an arm for as long as `work` takes. */
export async function using<Open extends Contender, R>(
  arm: Arm<Open>,
  options: OpenOptions,
  work: (contender: Open) => Promise<R>,
): Promise<R> {
  const contender = await arm.open(options)
  try {
    return await work(contender)
  } finally {
    await contender.close()
  }
}

/** Calls `work` with 0 to `count` - 1, so many at a time; what is synchronous stays so. */
export async function inFlight(
  count: number,
  concurrency: number,
  work: (n: number) => unknown,
): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) {
      const result = work(next++)
      if (result instanceof Promise) await result
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker))
}

/** Emits events 0 to `count` - 1 in large writes. */
export async function fill(contender: Contender, count: number, batch: number): Promise<void> {
  for (let from = 0; from < count; from += batch) {
    await contender.emitMany(numbered(from, Math.min(batch, count - from)))
  }
}

function numbered(from: number, count: number): Payload[] {
  return Array.from({ length: count }, (_, index) => ({ n: from + index }))
}

/** With its place an event is two items of a transaction of DynamoDB's, which takes a hundred, its key beside. */
export const MOST_KEYED_TOGETHER = 25

const PAUSE_MS = 5

/** Calls `batch` until stopped, with a pause after every poll that found nothing. */
export function polling(batch: () => number | Promise<number>): () => Promise<void> {
  const stop = new AbortController()
  const { signal } = stop
  const poll = async (): Promise<void> => {
    while (!signal.aborted) {
      const found = batch()
      if ((found instanceof Promise ? await found : found) > 0) continue
      await sleep(PAUSE_MS, undefined, { signal }).catch(() => {})
    }
  }
  const running = poll()
  return async () => {
    stop.abort()
    await running
  }
}
