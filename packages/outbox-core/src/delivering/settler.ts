import type { Clock } from '../clock.ts'
import { countFitting, isPassing } from '../emitting/batching.ts'
import { isPermanent, toError } from '../errors.ts'
import { errorFields, type Logger } from '../logger.ts'
import type { Outbox } from '../outbox.ts'
import type { Lease, Outcome, OutcomeResult } from '../storage.ts'
import type { Delivery } from './delivery.ts'
import { refused } from './handling.ts'

export interface Finished {
  readonly delivery: Delivery
  readonly outcome: Outcome
}

/** Told what became of an outcome, and since when (by the clock's `elapsed`) it has been under way to the database. */
type Settled = (finished: Finished, result: OutcomeResult, writingSince: number) => void

const FIRST_PAUSE_MS = 10
const LONGEST_PAUSE_MS = 1_000

const LOST: OutcomeResult = { status: 'lost' }
const APPLIED: OutcomeResult = { status: 'applied' }

/**
 * Writes outcomes in batches: what finishes while one write is under way goes into the next. A write that fails
 * for a passing reason is repeated until it succeeds or the bus stops; meanwhile its leases are kept alive.
 */
export class Settler {
  readonly #outbox: Outbox
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #batchSize: number
  readonly #leaseMs: number
  readonly #settled: Settled
  readonly #pending: Finished[] = []
  #flushing: Promise<void> | undefined
  #abandoned = false

  constructor(
    outbox: Outbox,
    { batchSize, leaseMs }: { readonly batchSize: number; readonly leaseMs: number },
    settled: Settled,
  ) {
    this.#outbox = outbox
    this.#clock = outbox.clock
    this.#logger = outbox.logger
    this.#batchSize = batchSize
    this.#leaseMs = leaseMs
    this.#settled = settled
  }

  add(finished: Finished): void {
    this.#pending.push(finished)
    this.#flushing ??= this.#flush()
  }

  /** Resolves when everything added so far is written, or given up after `abandon`. */
  async drained(): Promise<void> {
    while (this.#flushing) await this.#flushing
  }

  /** Stops repeating failed writes: the leases run out by themselves. */
  abandon(): void {
    this.#abandoned = true
  }

  async #flush(): Promise<void> {
    while (this.#pending.length > 0) {
      // What finishes in this turn of the event loop shall be part of the batch.
      await new Promise<void>((resolve) => setImmediate(resolve))
      await this.#write(this.#pending.splice(0, countFitting(this.#pending, this.#batchSize)))
    }
    this.#flushing = undefined
  }

  async #write(batch: readonly Finished[]): Promise<void> {
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      const since = this.#clock.elapsed()
      try {
        const results = await this.#recognized(
          batch,
          await this.#outbox.write(batch.map(({ outcome }) => outcome)),
        )
        for (const [index, finished] of batch.entries()) this.#report(finished, results[index], since)
        return
      } catch (thrown) {
        const error = toError(thrown)
        const splits = !isPassing(error) && (await this.#writeApart(batch, error))
        if (splits) return
        if (this.#abandoned) return this.#giveUp(batch, error)
        this.#logger.warn({ events: batch.length, error: errorFields(error) }, 'settling failed, will repeat')
        await new Promise<void>((resolve) => this.#clock.after(pause, resolve))
      }
    }
  }

  /**
   * A write that was applied although its answer was lost is lost when it is repeated, by us or by a driver; but what it
   * leased is held.
   */
  async #recognized(
    batch: readonly Finished[],
    results: readonly OutcomeResult[],
  ): Promise<readonly OutcomeResult[]> {
    const leases = batch.map(({ outcome }, index) =>
      results[index]?.status === 'lost' ? leased(outcome) : [],
    )
    if (leases.every(({ length }) => length === 0)) return results
    try {
      const gone = new Set(await this.#outbox.storage.extend(leases.flat(), this.#leaseMs))
      return results.map((result, index) =>
        leases[index]?.some(({ id }) => !gone.has(id)) ? APPLIED : result,
      )
    } catch (error) {
      this.#logger.warn(
        { error: errorFields(toError(error)) },
        'what was leased meanwhile is left to run out',
      )
      return results
    }
  }

  // One outcome that the database refuses must not hold up the others of its batch.
  async #writeApart(batch: readonly Finished[], error: Error): Promise<boolean> {
    const [first] = batch
    if (batch.length > 1) {
      for (const finished of batch) await this.#write([finished])
      return true
    }
    if (!first || !isPermanent(error) || first.outcome.settle?.kind === 'bury') return false
    this.#logger.error(
      { ...first.delivery.logFields, error: errorFields(error) },
      'outcome refused, event buried',
    )
    await this.#write([{ delivery: first.delivery, outcome: refused(first.delivery, error) }])
    return true
  }

  #giveUp(batch: readonly Finished[], error: Error): void {
    this.#logger.error(
      { events: batch.length, error: errorFields(error) },
      'settling given up; the leases will run out',
    )
    for (const finished of batch) this.#settled(finished, LOST, this.#clock.elapsed())
  }

  #report(finished: Finished, result: OutcomeResult = LOST, since: number): void {
    if (result.status === 'lost')
      this.#logger.warn(finished.delivery.logFields, 'lease was lost: outcome not written')
    this.#settled(finished, result, since)
  }
}

function leased({ append }: Outcome): Lease[] {
  return append.flatMap(({ id, leased: isLeased }) => (isLeased ? [{ id, attempt: 1 }] : []))
}
