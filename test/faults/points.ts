import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Delivery, Middleware, Outbox } from 'outbox-core'

/** Where a worker can be killed. */
export const POINTS = ['leased', 'executing', 'finished', 'settled', 'compensating'] as const

export type Point = (typeof POINTS)[number]

/** Kills the process when it comes to a point for the n-th time. */
export interface Fatality {
  readonly point: Point
  readonly nth: number
}

/** How an activity stalls: until the signal comes, or blocking the event loop until so many stall, and for a time. */
export type Stalling =
  | { readonly kind: 'hold' }
  | { readonly kind: 'block'; readonly until: number; readonly ms: number }

/** The signal that ends a `hold`. */
export const GO_ON = 'SIGUSR2'

/**
 * Watches one worker from inside: writes down which leases it lost and, before it kills itself, which handlers had run
 * whose outcome was not known to be written.
 */
export class Watch implements Middleware {
  readonly #note: (line: string) => void
  readonly #fatality: Fatality | undefined
  /** Slips by lease: a worker that stalls can have two of one event. */
  readonly #held = new Map<string, string>()
  #reached = 0

  constructor(outbox: Outbox, note: (line: string) => void, fatality?: Fatality) {
    this.#note = note
    this.#fatality = fatality
    this.#watchLeases(outbox)
    this.#watchWrites(outbox)
  }

  async handle(
    { id, attempt, routingSlipId = '' }: Pick<Delivery, 'id' | 'attempt' | 'routingSlipId'>,
    next: () => Promise<void>,
  ): Promise<void> {
    this.#held.set(`${id} ${attempt}`, routingSlipId)
    await next()
  }

  reached(point: Point): void {
    if (point !== this.#fatality?.point || ++this.#reached < this.#fatality.nth) return
    for (const slip of this.#held.values()) this.#note(`held ${slip}`)
    this.#note(`killed ${point}`)
    process.kill(process.pid, 'SIGKILL')
  }

  #watchLeases({ storage }: Outbox): void {
    const lease = storage.lease.bind(storage)
    storage.lease = async (request) => {
      const events = await lease(request)
      if (events.length > 0) this.reached('leased')
      return events
    }
  }

  #watchWrites({ storage }: Outbox): void {
    const write = storage.write.bind(storage)
    storage.write = async (outcomes, ...more) => {
      const completes = outcomes.some(({ settle }) => settle?.kind === 'complete')
      if (completes) this.reached('finished')
      const results = await write(outcomes, ...more)
      for (const [index, { settle, routingSlipId }] of outcomes.entries()) {
        if (!settle) continue
        this.#held.delete(`${settle.id} ${settle.attempt}`)
        if (results[index]?.status === 'lost')
          this.#note(`lost ${routingSlipId} ${settle.kind} ${process.pid}`)
      }
      if (completes) this.reached('settled')
      return results
    }
  }
}

/** Stalls in the first activity of each round, and says so; rounds are in the middle of the slips' ids. */
export class Stall {
  readonly #rounds = new Set<string>()
  readonly #note: (line: string) => void
  readonly #ledger: string
  readonly #stalling: Stalling

  constructor(note: (line: string) => void, ledger: string, stalling: Stalling) {
    this.#note = note
    this.#ledger = ledger
    this.#stalling = stalling
  }

  async inActivity(slipId: string): Promise<void> {
    const [, round = ''] = slipId.split('-')
    if (this.#rounds.has(round)) return
    this.#rounds.add(round)
    const goOn = once(process, GO_ON)
    this.#note(`stalling ${slipId} ${process.pid}`)
    if (this.#stalling.kind === 'hold') return void (await goOn)
    while (this.#stalledIn(round) < this.#stalling.until) block(10)
    block(this.#stalling.ms)
  }

  #stalledIn(round: string): number {
    return readFileSync(this.#ledger, 'utf8').split(`stalling slip-${round}-`).length - 1
  }
}

function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
