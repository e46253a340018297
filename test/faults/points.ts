import { setTimeout as sleep } from 'node:timers/promises'
import type { Middleware, Outbox } from 'outbox-core'

/** Where a worker can be killed. */
export const POINTS = ['leased', 'executing', 'finished', 'settled', 'compensating'] as const

export type Point = (typeof POINTS)[number]

/** Kills the process when it comes to a point for the n-th time. */
export interface Fatality {
  readonly point: Point
  readonly nth: number
}

/**
 * Watches one worker from inside: writes down which leases it lost and, before it kills itself, which handlers had run
 * whose outcome was not known to be written.
 */
export class Watch implements Middleware {
  readonly #note: (line: string) => void
  readonly #fatality: Fatality | undefined
  /** Slips by the id of their events. */
  readonly #held = new Map<string, string>()
  #reached = 0

  constructor(outbox: Outbox, note: (line: string) => void, fatality?: Fatality) {
    this.#note = note
    this.#fatality = fatality
    this.#watchLeases(outbox)
    this.#watchWrites(outbox)
  }

  async handle(
    { id, routingSlipId }: { readonly id: string; readonly routingSlipId: string | undefined },
    next: () => Promise<void>,
  ): Promise<void> {
    this.#held.set(id, routingSlipId ?? '')
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
    storage.lease = async (limit, leaseMs) => {
      const events = await lease(limit, leaseMs)
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
        this.#held.delete(settle.id)
        if (results[index]?.status === 'lost')
          this.#note(`lost ${routingSlipId} ${settle.kind} ${process.pid}`)
      }
      if (completes) this.reached('settled')
      return results
    }
  }
}

/** Takes its time over the first activity of each round, and says so; rounds are in the middle of the slips' ids. */
export class Stall {
  readonly #rounds = new Set<string>()
  readonly #note: (line: string) => void
  readonly #kind: 'hold' | 'block'
  readonly #ms: number

  constructor(note: (line: string) => void, { kind, ms }: { kind: 'hold' | 'block'; ms: number }) {
    this.#note = note
    this.#kind = kind
    this.#ms = ms
  }

  async inActivity(slipId: string): Promise<void> {
    const [, round = ''] = slipId.split('-')
    if (this.#rounds.has(round)) return
    this.#rounds.add(round)
    this.#note(`stalling ${round} ${process.pid}`)
    if (this.#kind === 'hold') await sleep(this.#ms)
    else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, this.#ms)
  }
}
