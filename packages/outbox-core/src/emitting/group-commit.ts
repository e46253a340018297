import { outsideCallers } from '../async-scope.ts'
import type { Clock } from '../clock.ts'
import type { Outcome, OutcomeResult } from '../storage.ts'
import { countFitting, isPassing } from './batching.ts'

type Write = (outcomes: readonly Outcome[]) => Promise<readonly OutcomeResult[]>

/** A caller who waits for the next write. */
interface Waiting {
  readonly outcome: Outcome
  readonly resolve: (result: OutcomeResult) => void
  readonly reject: (error: unknown) => void
}

/** Events and payloads. */
const LARGEST_GROUP = 400

// A connection that hangs must not hold up those that don't.
const WAIT_AT_MOST_MS = 100

/**
 * Lets callers that write at the same time share a commit: whoever comes while a write is under way is part of the next
 * one. Alone, a caller's outcome is written at once. What a database refuses concerns only the caller it came from.
 *
 * The group commit of databases: DeWitt et al., Implementation Techniques for Main Memory Database Systems, 1984.
 */
export class GroupCommit {
  readonly #write: Write
  readonly #clock: Clock
  readonly #waiting: Waiting[] = []
  #underWay = false

  constructor(write: Write, clock: Clock) {
    this.#write = write
    this.#clock = clock
  }

  async write(outcome: Outcome): Promise<OutcomeResult> {
    if (this.#underWay)
      return new Promise((resolve, reject) => this.#waiting.push({ outcome, resolve, reject }))
    return this.#turn(() => this.#alone(outcome), 1)
  }

  /** Does the work of so many callers, then has the next group written; that one does not wait for work that hangs. */
  async #turn<R>(work: () => Promise<R>, callers: number): Promise<R> {
    this.#underWay = true
    let begun = false
    const next = (): void => {
      if (begun) return
      begun = true
      cancel()
      // What others have handed over is written in nobody's context.
      void outsideCallers(() => this.#next(callers))
    }
    const cancel = this.#clock.after(WAIT_AT_MOST_MS, next)
    try {
      return await work()
    } finally {
      next()
    }
  }

  async #next(callers: number): Promise<void> {
    // Those whose write has just ended may have something to add.
    if (callers + this.#waiting.length > 1) await new Promise<void>((resolve) => setImmediate(resolve))
    const group = this.#waiting.splice(0, this.#fitting())
    if (group.length > 0) await this.#turn(() => this.#together(group), group.length)
    else this.#underWay = false
  }

  /** How many of the waiting are in the next group. One write takes no event and no payload twice. */
  #fitting(): number {
    const most = countFitting(this.#waiting, LARGEST_GROUP)
    const named = new Set<string>()
    for (let count = 0; count < most; count++) {
      const names = namesIn(this.#waiting[count]?.outcome)
      const full = named.size + names.length > LARGEST_GROUP || names.some((name) => named.has(name))
      if (full && count > 0) return count
      for (const name of names) named.add(name)
    }
    return most
  }

  async #together(group: readonly Waiting[]): Promise<void> {
    try {
      const results = await this.#write(group.map(({ outcome }) => outcome))
      for (const [index, { resolve }] of group.entries()) resolve(results[index] ?? { status: 'lost' })
    } catch (error) {
      if (group.length > 1 && !isPassing(error)) {
        for (const { outcome, resolve, reject } of group) await this.#alone(outcome).then(resolve, reject)
      } else {
        for (const { reject } of group) reject(error)
      }
    }
  }

  async #alone(outcome: Outcome): Promise<OutcomeResult> {
    const [result] = await this.#write([outcome])
    return result ?? { status: 'lost' }
  }
}

function namesIn(outcome: Outcome | undefined): readonly string[] {
  if (!outcome) return []
  const { append, put, remove } = outcome
  return [
    ...append.map(({ id }) => `event ${id}`),
    ...put.map(({ id }) => `payload ${id}`),
    ...remove.map((id) => `payload ${id}`),
  ]
}
