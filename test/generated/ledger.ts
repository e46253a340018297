import { type Outcome, type OutcomeResult, StorageError } from 'outbox-core'
import type { Ground } from '../engine/ground.ts'
import type { Passage } from './gate.ts'

/** What somebody was told of an event that was to be stored; `open` as long as nobody knows. */
type Fate = 'open' | 'stored' | 'not stored'

/** One call of a handler. */
export interface Run {
  readonly number: number
  /** Whose. */
  readonly worker: string
  /** Of the event, given by whoever emitted it. */
  readonly key: string
  readonly eventId: string
  readonly signal: AbortSignal
  end: 'running' | 'succeeded' | 'failed'
}

/** An event that was written together with the settlement of another. */
interface Following {
  readonly type: string
  readonly parent: string | undefined
  /** Number of the run that emitted it. */
  readonly run: number
}

/** Everything observed of one course: what was asked for, what ran, what was written. */
export class Ledger {
  readonly asked = new Map<string, { readonly way: string; fate: Fate }>()
  readonly runs: Run[] = []
  /** Activities and compensations, and what was told of them, in order. */
  readonly steps: string[] = []
  readonly completed = new Set<string>()
  readonly following = new Map<string, Following>()
  /** What must never be, seen while it happened. */
  readonly seen: string[] = []

  /** Notes what becomes of somebody's wish for an event. */
  ask(key: string, way: string, emitting: Promise<unknown>): void {
    const wish = { way, fate: 'open' as Fate }
    this.asked.set(key, wish)
    emitting.then(
      () => {
        wish.fate = 'stored'
      },
      (error: unknown) => {
        if (error instanceof StorageError) wish.fate = 'not stored'
      },
    )
  }

  begin(run: Omit<Run, 'number' | 'end'>): Run {
    const twice = this.runs.some(
      ({ key, worker, end, signal }) =>
        key === run.key && worker === run.worker && end === 'running' && !signal.aborted,
    )
    if (twice) this.seen.push(`${run.worker} handles ${run.key} twice at once`)
    const begun: Run = { ...run, number: this.runs.length, end: 'running' }
    this.runs.push(begun)
    return begun
  }

  failures(key: string): number {
    return this.runs.filter((run) => run.key === key && run.end === 'failed').length
  }

  /** Writes down what reaches the database. */
  get recorder(): Passage {
    return {
      through: async ({ verb, outcomes }, run) => {
        const result = await run()
        if (verb === 'write') this.#wrote(outcomes, result as readonly OutcomeResult[])
        return result
      },
    }
  }

  #wrote(outcomes: readonly Outcome[], results: readonly OutcomeResult[]): void {
    for (const [index, { settle, append }] of outcomes.entries()) {
      if (!settle || results[index]?.status !== 'applied') continue
      if (settle.kind === 'complete') this.completed.add(settle.id)
      for (const { id, type, headers } of append) {
        const { parent, run } = headers
        this.following.set(id, { type, parent, run: Number(run) })
      }
    }
  }
}

/** Whether every event is completed or dead. */
export function isQuiet(ground: Ground): boolean {
  return ground.events().every(({ state }) => state === 'done' || state === 'dead')
}
