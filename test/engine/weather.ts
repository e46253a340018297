import type { Scheduler } from 'fast-check'
import { StorageError, UnknownOutcomeError } from 'outbox-core'
import { type Call, never, type Passage } from './gate.ts'
import type { Ground } from './ground.ts'
import { LEASE_MS } from './worker.ts'

export const FAULTS = [
  'killed before',
  'killed after',
  'frozen before',
  'frozen after',
  'refused',
  'unanswered',
] as const

/** What happens to the worker that makes a certain call, counted over all workers. */
export interface Fault {
  readonly call: number
  readonly kind: (typeof FAULTS)[number]
}

/** Puts the calls of all workers in an order, and some of them into trouble. */
export class Weather {
  readonly #scheduler: Scheduler
  readonly #ground: Ground
  readonly #faults: ReadonlyMap<number, Fault['kind']>
  readonly #frozen = new Set<{ readonly until: number; readonly thaw: () => void }>()
  #calls = 0
  #calm = false

  constructor(scheduler: Scheduler, ground: Ground, faults: readonly Fault[]) {
    this.#scheduler = scheduler
    this.#ground = ground
    this.#faults = new Map(faults.map(({ call, kind }) => [call, kind]))
  }

  /** How many calls wait for their turn. */
  get waiting(): number {
    return this.#scheduler.count()
  }

  /** Lets the next call pass, or come back. */
  next(): Promise<void> {
    return this.#scheduler.waitNext(1)
  }

  thaw(): void {
    for (const one of this.#frozen) {
      if (!this.#calm && one.until > this.#ground.clock.now()) continue
      this.#frozen.delete(one)
      one.thaw()
    }
  }

  /** No more faults, and nothing is held up. */
  calm(): void {
    this.#calm = true
    this.thaw()
  }

  async turn(label: string): Promise<void> {
    if (!this.#calm) await this.#scheduler.schedule(Promise.resolve(), label)
  }

  fault(): Fault['kind'] | undefined {
    return this.#calm ? undefined : this.#faults.get(this.#calls++)
  }

  /** Resolves when whoever holds it can no longer hold a lease. */
  frost(): Promise<void> {
    return new Promise((thaw) => {
      this.#frozen.add({ until: this.#ground.clock.now() + 2 * LEASE_MS, thaw })
    })
  }
}

/** How one worker fares in it. */
export class Fortune implements Passage {
  dead = false
  readonly #name: string
  readonly #weather: Weather
  #frost: Promise<void> | undefined

  constructor(name: string, weather: Weather) {
    this.#name = name
    this.#weather = weather
  }

  async through<R>({ verb, run }: Call<R>): Promise<R> {
    const fault = this.dead ? undefined : this.#weather.fault()
    await this.alive(`${this.#name} ${verb}${fault ? `, ${fault}` : ''}`)
    if (fault === 'killed before') this.dead = true
    if (fault === 'frozen before') this.#frost = this.#weather.frost()
    if (fault === 'refused') throw new StorageError('refused', { transient: true })
    if (fault === 'killed before' || fault === 'frozen before') await this.alive(`${this.#name} thaws`)
    const result = await run()
    if (fault === 'killed after') this.dead = true
    if (fault === 'frozen after') this.#frost = this.#weather.frost()
    if (fault === 'unanswered') {
      throw verb === 'write'
        ? new UnknownOutcomeError('unanswered')
        : new StorageError('unanswered', { transient: true })
    }
    await this.alive(`${this.#name} ${verb} answered`)
    return result
  }

  /** Returns when it is this worker's turn, which a dead one's never is. */
  async alive(label: string): Promise<void> {
    await this.#frost
    if (this.dead) await never()
    await this.#weather.turn(label)
    if (this.dead) await never()
  }
}
