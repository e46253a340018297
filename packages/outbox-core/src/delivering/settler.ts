import type { Clock } from '../clock.ts'
import { countFitting, isPassing } from '../emitting/batching.ts'
import type { OutboxCore } from '../emitting/outbox-core.ts'
import { blameOf } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { Outcome, OutcomeResult } from '../storage.ts'
import { errFields, toError } from '../thrown.ts'
import type { Attempt } from './attempt.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { answeredWithin, Pace } from './deadline.ts'
import { buried } from './outcomes.ts'
import { Pauses } from './pauses.ts'
import { recognized } from './recognized.ts'

export interface Finished {
  readonly attempt: Attempt
  readonly outcome: Outcome
  /** What is written instead when the database refuses what belongs to others in it. @default a burial */
  readonly alone?: Outcome | undefined
}

/** What a settler asks and tells its dispatcher. */
interface Surroundings {
  /** The outcome that buries an event instead. Must not reject. */
  buried(attempt: Attempt, error: Error): Promise<Outcome>
  /** Told what became of an outcome, and since when (by the clock's `elapsed`) it has been under way to the database. */
  settled(finished: Finished, result: OutcomeResult, writingSince: number): void
  /** Called when outcomes were set aside: there is room for others. */
  roomMade(): void
}

/** An outcome on its way into the database. */
interface Entry {
  readonly attempt: Attempt
  outcome: Outcome
  alone: Outcome | undefined
  /** How often it was refused for what is in it: a burial with the reason and one without may come after it. */
  refusals: number
  failures: number
  unanswered: number
  /** Since when it has been set aside, by the clock's `elapsed`. */
  asideSince: number | undefined
  settled: boolean
}

const FIRST_PAUSE_MS = 10
const LONGEST_PAUSE_MS = 5_000

// What a database says without telling whether it will pass is believed to for so many times.
const UNCLEAR_FAILURES = 3

// A batch that fails again and again for a passing reason may do so because of one that is in it.
const FAILURES_TOGETHER = 4

const REFUSED_REASON = 'OutboxError: the database refused what was to be written, and the reason for it too'

const LOST: OutcomeResult = { status: 'lost' }

/**
 * Writes outcomes in batches: what finishes while one write is under way goes into the next. What can't be written is
 * **set aside**, where it holds up nobody: repeated with a backoff of its own while the failure may pass, buried with
 * the reason when the database refuses it, and given up when it takes too long; then its lease is kept no longer.
 */
export class Settler {
  readonly #core: OutboxCore
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #settings: DispatcherSettings
  readonly #surroundings: Surroundings
  readonly #pending: Entry[] = []
  /** Everything not settled yet. */
  readonly #open = new Set<Entry>()
  readonly #pace: Pace
  readonly #aside = new Set<Entry>()
  /** Of what was set aside. */
  readonly #pauses: Pauses
  #flushing = false
  #abandoned = false
  #drained: (() => void) | undefined

  constructor(core: OutboxCore, settings: DispatcherSettings, surroundings: Surroundings) {
    this.#core = core
    this.#clock = core.clock
    this.#pace = new Pace(core.clock, settings.leaseMs)
    this.#pauses = new Pauses(core.clock)
    this.#logger = core.logger
    this.#settings = settings
    this.#surroundings = surroundings
  }

  /** How many outcomes wait apart for a database that does not take them. */
  get aside(): number {
    return this.#aside.size
  }

  add({ attempt, outcome, alone }: Finished): void {
    const entry: Entry = {
      attempt,
      outcome,
      alone,
      refusals: 0,
      failures: 0,
      unanswered: 0,
      asideSince: undefined,
      settled: false,
    }
    this.#open.add(entry)
    this.#pending.push(entry)
    if (!this.#flushing) void this.#flush()
  }

  /** Resolves when everything added so far is written, or given up after `abandon`. */
  drained(): Promise<void> {
    if (this.#open.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#drained = resolve
    })
  }

  /** Stops repeating failed writes: the leases run out by themselves. */
  abandon(): void {
    this.#abandoned = true
    this.#pauses.end()
  }

  async #flush(): Promise<void> {
    this.#flushing = true
    while (this.#pending.length > 0) {
      // What finishes in this turn of the event loop shall be part of the batch.
      await new Promise<void>((resolve) => setImmediate(resolve))
      const batch = this.#pending.splice(0, countFitting(this.#pending, this.#settings.batchSize))
      // What may have to wait for a user's transaction keeps no others waiting.
      const apart = new Set(batch.filter(({ outcome }) => this.#core.mayWait(outcome)))
      if (apart.size < batch.length) await this.#inTime(batch.filter((entry) => !apart.has(entry)))
      for (const entry of apart) await this.#inTime([entry])
    }
    this.#flushing = false
  }

  /** Writes a batch. Without an answer it goes on by itself after a moment, and what comes after it does not wait. */
  #inTime(batch: readonly Entry[]): Promise<void> {
    // Where some are not answered already, another one more at once is not what the database needs.
    const { softDeadlineMs, hardDeadlineMs } = this.#settings
    const deadlineMs = this.#pace.atLeast(this.#aside.size > 0 ? hardDeadlineMs : softDeadlineMs)
    return answeredWithin(this.#clock, deadlineMs, () => this.#write(batch)).catch(() => {
      for (const entry of batch) this.#setAside(entry)
    })
  }

  /** Writes what is left of a batch, and again when there is no answer. Never rejects. */
  async #write(batch: readonly Entry[]): Promise<void> {
    const entries = batch.filter(({ settled }) => !settled)
    if (entries.length === 0) return
    const since = this.#clock.elapsed()
    let repeating = false
    const unanswered = Math.max(...entries.map((entry) => entry.unanswered))
    const deadlineMs = this.#pace.atLeast(this.#settings.hardDeadlineMs) * 2 ** Math.min(unanswered, 10)
    const cancel = this.#clock.after(deadlineMs, () => {
      repeating = true
      this.#logger.warn({ events: entries.length }, 'settling is not answered, will repeat')
      for (const entry of entries) entry.unanswered++
      // Not answered again, one of them may be what the database waits for: the others are not to share its fate.
      const parts = entries.some(({ unanswered }) => unanswered > 1) ? halves(entries) : [entries]
      for (const part of parts) void this.#again(part)
    })
    try {
      const outcomes = entries.map(({ outcome }) => outcome)
      const answer = await this.#pace.timed(() => this.#core.write(outcomes))
      const results = await recognized(this.#core, this.#settings, outcomes, answer)
      for (const [index, entry] of entries.entries()) this.#report(entry, results[index] ?? LOST, since)
    } catch (thrown) {
      if (!repeating) this.#failed(entries, toError(thrown))
    } finally {
      cancel()
    }
  }

  #failed(entries: readonly Entry[], error: Error): void {
    for (const entry of entries) entry.failures++
    const failures = Math.max(...entries.map((entry) => entry.failures))
    if (isPassing(error)) {
      this.#logger.warn({ events: entries.length, ...errFields(error) }, 'settling failed, will repeat')
      const parts = failures >= FAILURES_TOGETHER ? halves(entries) : [entries]
      for (const part of parts) void this.#again(part)
      return
    }
    const [entry] = entries
    if (!entry) return
    if (entries.length > 1) {
      void this.#apart(entries)
    } else if (blameOf(error) !== 'event' && entry.refusals === 0 && entry.failures < UNCLEAR_FAILURES) {
      this.#logger.warn({ ...entry.attempt.logFields, ...errFields(error) }, 'settling failed, will repeat')
      void this.#again(entries)
    } else {
      this.#refused(entry, error)
    }
  }

  // One outcome that the database refuses must not hold up the others of its batch.
  async #apart(entries: readonly Entry[]): Promise<void> {
    for (const part of halves(entries)) await this.#inTime(part)
  }

  #refused(entry: Entry, error: Error): void {
    const { attempt } = entry
    const fields = { ...attempt.logFields, ...errFields(error) }
    if (entry.alone) {
      this.#logger.warn(fields, 'outcome of several events of a key refused, the first is settled alone')
      entry.outcome = entry.alone
      entry.alone = undefined
      this.#setAside(entry)
      void this.#write([entry])
      return
    }
    entry.refusals++
    if (entry.refusals > 2) {
      this.#logger.error(fields, 'even a burial is refused: given up, its lease is kept no longer')
      this.#settle(entry, LOST, this.#clock.elapsed())
    } else {
      this.#logger.error(fields, 'outcome refused, to be buried instead')
      void this.#bury(entry, error)
    }
  }

  async #bury(entry: Entry, error: Error): Promise<void> {
    const { attempt, refusals } = entry
    const first = refusals === 1
    this.#setAside(entry)
    entry.outcome = first ? await this.#surroundings.buried(attempt, error) : buried(attempt, REFUSED_REASON)
    await this.#write([entry])
  }

  /** Sets entries aside and writes them again after a pause. */
  async #again(entries: readonly Entry[]): Promise<void> {
    for (const entry of entries) this.#setAside(entry)
    const failures = Math.max(...entries.map((entry) => entry.failures))
    await this.#pauses.pause(Math.min(FIRST_PAUSE_MS * 2 ** Math.min(failures, 20), LONGEST_PAUSE_MS))
    const now = this.#clock.elapsed()
    const kept = entries.filter((entry) => {
      const tooLong = now - (entry.asideSince ?? now) > this.#settings.asideMs
      if (!entry.settled && (this.#abandoned || tooLong)) this.#giveUp(entry)
      return !entry.settled
    })
    await this.#write(kept)
  }

  #setAside(entry: Entry): void {
    if (entry.settled) return
    entry.asideSince ??= this.#clock.elapsed()
    this.#aside.add(entry)
    this.#surroundings.roomMade()
  }

  #giveUp(entry: Entry): void {
    this.#logger.error(entry.attempt.logFields, 'settling given up; the lease will run out')
    this.#settle(entry, LOST, this.#clock.elapsed())
  }

  #report(entry: Entry, result: OutcomeResult, since: number): void {
    if (entry.settled) return
    if (result.status === 'lost')
      this.#logger.warn(entry.attempt.logFields, 'lease was lost: outcome not written')
    this.#settle(entry, result, since)
  }

  #settle(entry: Entry, result: OutcomeResult, since: number): void {
    entry.settled = true
    this.#open.delete(entry)
    this.#aside.delete(entry)
    this.#surroundings.settled(entry, result, since)
    if (this.#open.size === 0) this.#drained?.()
  }
}

function halves(entries: readonly Entry[]): (readonly Entry[])[] {
  if (entries.length < 2) return [entries]
  const middle = entries.length >> 1
  return [entries.slice(0, middle), entries.slice(middle)]
}
