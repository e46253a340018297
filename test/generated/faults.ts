import { type Clock, type Outcome, StorageError, UnknownOutcomeError } from 'outbox-core'
import type { Call, Passage, Verb } from './gate.ts'

export const LEASE_MS = 30_000

/** What can become of a call. */
export const KINDS = [
  /** Not applied, and never will be. */
  'refused',
  /** Not applied, for a reason that passes. */
  'failed',
  /** Applied, but nobody is told. */
  'unknown',
  'hung before',
  'hung after',
  /** Answered later than the next call waits for it. */
  'slow',
  /** Answered later than anybody waits for it. */
  'late',
  /** Applied later than anybody waits for it. */
  'applied late',
  /** Answered when its lease has run out. */
  'stale',
  'applied stale',
] as const

export type Kind = (typeof KINDS)[number]

const DELAYS_MS: Readonly<Partial<Record<Kind, number>>> = {
  slow: 1_000,
  late: LEASE_MS / 2,
  'applied late': LEASE_MS / 2,
  stale: LEASE_MS * 1.3,
  'applied stale': LEASE_MS * 1.3,
}

export interface Fault {
  /** Which call, counted over all workers from 0. */
  readonly call: number
  readonly kind: Kind
  /** Once, or from then on all calls of that verb by that worker, until it is healed. */
  readonly lasts?: boolean
}

/** Puts the calls of workers into trouble, as it is planned. */
export class Faults {
  /** Every call: when, whose, what, and what became of it. */
  readonly trace: string[] = []
  /** What has happened to whom. */
  readonly met: { readonly verb: Verb; readonly kind: Kind }[] = []
  /** Calls that may still bring an event. */
  underWay = 0
  readonly #clock: Clock
  readonly #began: number
  readonly #planned: ReadonlyMap<number, Fault>
  readonly #lasting = new Map<string, Kind>()
  /** What a database refuses it refuses from everybody, and whenever it is given. */
  readonly #refused = new Set<string>()
  #calls = 0
  #healed = false
  #givingWay = false

  constructor(plan: readonly Fault[], clock: Clock) {
    this.#planned = new Map(plan.map((fault) => [fault.call, fault]))
    this.#clock = clock
    this.#began = clock.now()
  }

  /** How many calls the workers that meet faults have made. */
  get calls(): number {
    return this.#calls
  }

  /**
   * Workers that can't write go on holding what they hold, and get nothing new: which of those that poll is the first
   * is for chance to decide, and on this clock there is none.
   */
  giveWay(): void {
    this.#givingWay = true
  }

  /** From now on the database does what it is asked to. */
  heal(): void {
    this.#healed = true
    this.#givingWay = false
  }

  /** For a worker that meets what is planned. */
  unlucky(worker: string): Passage {
    return {
      through: (call, run) => {
        const kind = this.#next(worker, call)
        const nothing = this.#givingWay && call.verb === 'lease' && this.#isUnableToWrite
        return this.#through(worker, call, nothing ? async () => [] as never : run, kind)
      },
    }
  }

  /** For one that meets only what anybody would. */
  lucky(worker: string): Passage {
    return { through: (call, run) => this.#through(worker, call, run, undefined) }
  }

  get #isUnableToWrite(): boolean {
    return [...this.#lasting.keys()].some((name) => !name.endsWith('getPayload'))
  }

  #next(worker: string, call: Call): Kind | undefined {
    const planned = this.#planned.get(this.#calls++)
    if (this.#healed) return undefined
    const name = `${worker} ${call.verb}`
    if (planned?.lasts) this.#lasting.set(name, planned.kind)
    const wanted = planned?.kind ?? this.#lasting.get(name)
    if (!wanted) return undefined
    // Whoever hangs in a transaction of their own holds up all who share its connection, and not for want of a deadline.
    const kind = call.inTransaction && wanted.startsWith('hung') ? 'failed' : wanted
    this.met.push({ verb: call.verb, kind })
    if (kind === 'refused') for (const name of contents(call)) this.#refused.add(name)
    return kind
  }

  async #through<R>(
    worker: string,
    call: Call,
    run: () => Promise<R>,
    planned: Kind | undefined,
  ): Promise<R> {
    const refused = contents(call).some((name) => this.#refused.has(name))
    const kind = planned ?? (refused ? 'refused' : undefined)
    this.#note(worker, call, kind)
    if (kind === 'refused') throw new StorageError('refused on purpose', { transient: false, refused: true })
    if (kind === 'failed') throw new StorageError('failed on purpose', { transient: true })
    if (kind === 'hung before') return never()
    const delayMs = (kind && DELAYS_MS[kind]) ?? 0
    if (kind?.startsWith('applied')) await this.#pause(call, delayMs)
    const result = await run()
    if (kind === 'hung after') return never()
    if (kind === 'unknown') throw new UnknownOutcomeError('not answered, on purpose')
    if (!kind?.startsWith('applied')) await this.#pause(call, delayMs)
    return result
  }

  async #pause({ verb }: Call, ms: number): Promise<void> {
    if (ms === 0) return
    const bringing = verb === 'write' || verb === 'transaction' || verb === 'put' ? 1 : 0
    this.underWay += bringing
    await new Promise<void>((resolve) => this.#clock.after(ms, resolve))
    this.underWay -= bringing
  }

  #note(worker: string, { verb, outcomes }: Call, kind: Kind | undefined): void {
    const idle = !kind && verb !== 'write'
    if (idle || this.trace.length > 60) return
    const seconds = (this.#clock.now() - this.#began) / 1_000
    const what = outcomes.map(described).join(', ')
    const number = kind && `  <== ${kind}`
    this.trace.push(`${seconds.toFixed(2)} s  ${worker}  ${verb} ${what}${number ?? ''}`)
  }
}

// A burial without its reason has nothing in it that could be refused.
function contents({ outcomes }: Call): readonly string[] {
  return outcomes.flatMap(({ settle, append }) => {
    if (settle) return settle.kind === 'bury' ? [] : `${settle.kind} ${settle.id}`
    return append.map(({ id }) => `append ${id}`)
  })
}

function described({ settle, append, put }: Outcome): string {
  const parts = [
    ...(settle ? [`${settle.kind} ${settle.id.slice(-6)}#${settle.attempt}`] : []),
    ...append.map(({ id, type }) => `append ${type} ${id.slice(-6)}`),
    ...put.map(() => 'put'),
  ]
  return parts.join(' + ')
}

function never(): Promise<never> {
  return new Promise(() => {})
}
