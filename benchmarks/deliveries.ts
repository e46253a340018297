import { setTimeout as sleep } from 'node:timers/promises'
import { type Contender, fill, type Handle } from './contender.ts'
import { timed } from './measure.ts'

const PATIENCE_MS = 300_000

/** Sees to it that events 0 to `count` - 1 are handled, each of them once. */
export class Deliveries {
  readonly #seen: Uint8Array
  readonly #done = Promise.withResolvers<void>()
  #missing: number

  constructor(count: number) {
    this.#seen = new Uint8Array(count)
    this.#missing = count
  }

  readonly handle: Handle = ({ n }) => {
    const seen = this.#seen[n] ?? 0
    this.#seen[n] = seen + 1
    if (seen === 0 && --this.#missing === 0) this.#done.resolve()
  }

  /** When all have been handled. @throws when that takes more than five minutes */
  async finished(): Promise<void> {
    const patience = new AbortController()
    const lost = sleep(PATIENCE_MS, undefined, { signal: patience.signal }).then(() => {
      throw new Error(`${this.#missing} events not handled after ${PATIENCE_MS} ms`)
    })
    await Promise.race([this.#done.promise, lost]).finally(() => patience.abort())
    lost.catch(() => {})
  }

  /** @throws when one was handled twice, or the outbox still has some */
  async assertExact(contender: Contender): Promise<void> {
    const twice = this.#seen.findIndex((times) => times !== 1)
    if (twice !== -1) throw new Error(`event ${twice} was handled ${this.#seen[twice]} times`)
    assertEqual('events left', await contender.pending(), 0)
  }
}

/** Hands out the events that are there, and checks that it is each of them once. Returns how long it took, in ms. */
export async function drainAll(contender: Contender, count: number, concurrency: number): Promise<number> {
  const deliveries = new Deliveries(count)
  const ms = await timed(async () => {
    const stop = await contender.consume(deliveries.handle, concurrency)
    await deliveries.finished()
    await stop()
  })
  await deliveries.assertExact(contender)
  return ms
}

/** Events a second of a drain. */
export async function drainRate(
  contender: Contender,
  { count, batch, concurrency }: { count: number; batch: number; concurrency: number },
): Promise<number> {
  await fill(contender, count, batch)
  return (count / (await drainAll(contender, count, concurrency))) * 1000
}

/** @throws when they differ */
export function assertEqual(what: string, actual: number, expected: number): void {
  if (actual !== expected) throw new Error(`${what}: ${actual}, expected ${expected}`)
}
