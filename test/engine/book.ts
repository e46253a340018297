import assert from 'node:assert/strict'
import type { ActivityContext, Lease, Outcome, OutcomeResult } from 'outbox-core'
import type { Ground, Stored } from './ground.ts'
import type { Told } from './model.ts'

export type Phase = 'execute' | 'compensate'

/** Everything observed of one slip: what ran, what was written, what was told. */
export class Book {
  /** `execute 0 1`: phase, step, attempt; in order. */
  readonly runs: string[] = []
  /** The kinds of the lifecycle events that were written, in order. */
  readonly appended: string[] = []
  /** What their handlers were given, by event id, in the order of the first time. */
  readonly told = new Map<string, Told>()
  transitions = 0
  burials = 0
  /** How many outcomes were refused because their lease was lost. */
  lost = 0
  /** Raised by whatever happens. */
  happened = 0
  readonly #ground: Ground
  readonly #keys = new Map<string, string>()
  readonly #steps = new Set<string>()
  /** Of every event, the number of the latest. */
  readonly #attempts = new Map<string, number>()

  constructor(ground: Ground) {
    this.#ground = ground
  }

  /** Returns whether it is the first of its kind. */
  ran(phase: Phase, { step, attempt, idempotencyKey }: ActivityContext): boolean {
    this.happened++
    this.runs.push(`${phase} ${step} ${attempt}`)
    const run = `${phase} ${step}`
    const isFirst = !this.#keys.has(run)
    assert.equal(
      this.#keys.get(run) ?? idempotencyKey,
      idempotencyKey,
      'the key is the same for every attempt',
    )
    this.#keys.set(run, idempotencyKey)
    assert.equal(new Set(this.#keys.values()).size, this.#keys.size, 'no two runs share a key')
    return isFirst
  }

  leased(leases: readonly Lease[]): void {
    for (const { id, attempt } of leases) this.#attempts.set(id, attempt)
  }

  /** Checks what must hold after every single write. */
  wrote(outcomes: readonly Outcome[], results: readonly OutcomeResult[]): void {
    for (const [index, outcome] of outcomes.entries()) {
      const applied = results[index]?.status === 'applied'
      if (applied) this.#applied(outcome)
      else this.lost++
    }
    const open = this.open()
    const claims = open.flatMap(({ headers }) => headers['outbox-claim'] ?? [])
    const payloads = this.#ground.payloads()
    assert.equal(
      claims.toSorted().join(),
      payloads.toSorted().join(),
      'every claim has its payload, and no more',
    )
    assert.ok(open.filter(({ type }) => type === 'saga.step').length <= 1, 'one step is under way')
  }

  /** How far the slip has come, `execute 0`: stale workers may run what is behind it. */
  get furthest(): string {
    const ran = (phase: Phase): number[] =>
      this.runs.flatMap((run) => (run.startsWith(phase) ? Number(run.split(' ')[1]) : []))
    const undone = ran('compensate')
    return undone.length > 0 ? `compensate ${Math.min(...undone)}` : `execute ${Math.max(...ran('execute'))}`
  }

  open(): readonly Stored[] {
    return this.#ground.events().filter(({ state }) => state !== 'done')
  }

  #applied({ settle, append }: Outcome): void {
    for (const { id, type, leased } of append) {
      if (leased) this.#attempts.set(id, 1)
      if (type === 'saga.step') this.#steps.add(id)
      else this.appended.push(type.slice('saga.'.length))
    }
    if (settle) assert.equal(settle.attempt, this.#attempts.get(settle.id), 'no stale worker writes')
    if (!settle || !this.#steps.has(settle.id)) return
    if (settle.kind === 'complete') {
      this.transitions++
      this.#steps.delete(settle.id)
    }
    if (settle.kind === 'bury') this.burials++
  }
}
