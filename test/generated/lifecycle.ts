import { once } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import {
  type Activity,
  activity,
  Outbox,
  OutboxEventBus,
  routingSlip,
  SagaEngine,
  type Storage,
  TimeoutError,
} from 'outbox-core'
import { ManualClock } from 'outbox-core/testing'
import { InMemoryStorage } from '../../packages/outbox-core/src/memory/storage.ts'
import { gated } from './gate.ts'
import { CountedClock } from './timers.ts'

/** What can happen to a bus, or be asked of it. */
export const MOVES = [
  'start',
  'stop',
  'emit',
  /** An event whose first attempt fails. */
  'emit failing',
  /** An event whose first handler hangs, whatever its signal says. */
  'emit hanging',
  /** An event whose first handler hangs until its signal says otherwise. */
  'emit heeding',
  /** A routing slip whose activity hangs the first time. */
  'emit slip',
  /** An event whose handler stops the bus. */
  'emit stopping',
  /** Everything leased is taken by somebody else, who does not come back. */
  'lose leases',
  /** From now on, or no longer, the storage takes its time. */
  'slow',
  /** One turn of the event loop. */
  'turn',
  'second',
] as const

export type Move = (typeof MOVES)[number]

type Events = Record<'work', { readonly way: Move }>

const LEASE_MS = 30_000
// Longer than a call may hold up the next one.
const SLOW_MS = 400
const DRAIN_MS = 2_000
// A database that answers ends any stop by then, and so does every lease.
const ENOUGH_MS = 3 * LEASE_MS
const STEP_MS = 100
const RETRY = { delay: '1s', factor: 1, jitter: 0 } as const

/** A handler's call: of which event, as which attempt. */
interface Run {
  readonly id: string
  readonly attempt: number
}

/** A bus, its database and its time; makes moves, and then says what is wrong. */
export class Lifecycle {
  readonly wrong: string[] = []
  readonly #time = new ManualClock()
  readonly #clock = new CountedClock(this.#time)
  readonly #storage = new InMemoryStorage(this.#time)
  readonly #bus: OutboxEventBus<Events>
  readonly #engine: SagaEngine<Events>
  readonly #hanging: Activity<'hanging', undefined, undefined>
  readonly #hung = new Set<string>()
  readonly #runs: Run[] = []
  /** The leases of somebody else. */
  readonly #others = new Set<string>()
  /** How many attempts at an event count: those that failed, and those whose lease was lost. */
  readonly #counted = new Map<string, number>()
  #wanted: 'start' | 'stop' = 'stop'
  /** Promises of start and stop that have not settled. */
  #open = 0
  #slow = false
  #underWay = 0
  #calls = 0
  #extended = 0

  constructor() {
    const passage = {
      through: async <R>({ verb }: { readonly verb: string }, run: () => Promise<R>): Promise<R> => {
        this.#calls++
        if (verb === 'extend') this.#extended++
        this.#underWay++
        if (this.#slow) await this.#pause(SLOW_MS / 2)
        const result = await run()
        if (this.#slow) await this.#pause(SLOW_MS)
        this.#underWay--
        return result
      },
    }
    const storage = gated(this.#storage as unknown as Storage<unknown>, passage)
    const outbox = new LiveOutbox(storage, this.#clock)
    this.#bus = this.#busOn(outbox)
    this.#hanging = activity('hanging', { execute: (_: undefined, { slipId }) => this.#hangsFirst(slipId) })
    const store = outbox.sagaStore('1d')
    this.#engine = new SagaEngine({ bus: this.#bus, store, activities: [this.#hanging], retry: RETRY })
  }

  async make(move: Move): Promise<void> {
    switch (move) {
      case 'start':
      case 'stop':
        return this.#ask(move)
      case 'lose leases':
        return this.#loseLeases()
      case 'slow':
        this.#slow = !this.#slow
        return
      case 'turn':
        return setImmediate()
      case 'second':
        return this.#time.advance(1_000)
      case 'emit slip':
        void this.#engine.emit(routingSlip('slip').add(this.#hanging))
        return
      default:
        void this.#bus.emit('work', { way: move })
    }
  }

  /** Lets everything come to its end, stops the bus, starts it again, and stops it for good. */
  async end(): Promise<void> {
    this.#slow = false
    await this.#until(() => this.#open === 0 && this.#underWay === 0, 'start and stop settle')
    await this.#isAsWanted()
    await this.#stopped()
    await this.#until(() => {
      // A handler may have stopped it.
      if (this.#wanted === 'stop') this.#ask('start')
      return this.#storage.events.size === 0
    }, 'what is left is handled')
    await this.#stopped()
    this.#attempts()
  }

  #busOn(outbox: Outbox): OutboxEventBus<Events> {
    const bus = new OutboxEventBus<Events>(outbox, {
      concurrency: 2,
      batchSize: 2,
      lease: LEASE_MS,
      poll: { min: 100, max: '2s' },
      handlerTimeout: '10s',
      purgeInterval: '1h',
      retry: RETRY,
    })
    return bus.on('work', async ({ id, payload: { way } }, { attempt, signal }) => {
      const run = { id, attempt }
      const first = this.#runs.every((other) => other.id !== id)
      this.#runs.push(run)
      signal.addEventListener('abort', () => signal.reason instanceof TimeoutError && this.#count(id))
      if (way === 'emit hanging' && first) await new Promise(() => {})
      if (way === 'emit heeding' && first) await once(signal, 'abort')
      if (way === 'emit stopping' && first) {
        this.#wanted = 'stop'
        await bus.stop({ timeout: DRAIN_MS })
      }
      if (way !== 'emit failing' || !first) return
      this.#count(id)
      throw new Error(way)
    })
  }

  async #hangsFirst(slipId: string): Promise<void> {
    if (this.#hung.has(slipId)) return
    this.#hung.add(slipId)
    await new Promise(() => {})
  }

  #ask(move: 'start' | 'stop'): void {
    this.#wanted = move
    this.#open++
    const asked = move === 'start' ? this.#bus.start() : this.#bus.stop({ timeout: DRAIN_MS })
    asked.then(
      () => this.#open--,
      (error: unknown) => {
        this.#open--
        this.wrong.push(`${move} fails: ${error}`)
      },
    )
  }

  #loseLeases(): void {
    for (const event of this.#storage.events.values()) {
      if (event.state !== 'leased') continue
      event.attempt++
      this.#others.add(`${event.id} ${event.attempt}`)
      this.#storage.reschedule(event, this.#time.now() + LEASE_MS)
      // The attempt of this bus, and that of whoever has it now.
      this.#count(event.id)
      this.#count(event.id)
    }
  }

  /** A bus that is to run takes what comes; one that is not takes nothing. */
  async #isAsWanted(): Promise<void> {
    const id = await this.#bus.emit('work', { way: 'emit' })
    const handled = (): boolean => this.#runs.some((run) => run.id === id)
    if (this.#wanted === 'start')
      await this.#until(() => handled() || this.#wanted === 'stop', 'the bus that was started last runs')
    if (this.#wanted === 'start') return
    // Where a handler has stopped it, nobody waits for that.
    await this.#time.advance(LEASE_MS)
    const { length } = this.#runs
    const calls = this.#calls
    await this.#time.advance(LEASE_MS)
    if (this.#runs.length > length) this.wrong.push('a bus that is stopped handles something')
    if (this.#calls > calls) this.wrong.push('a bus that is stopped asks its database for something')
  }

  async #stopped(): Promise<void> {
    this.#ask('stop')
    await this.#until(() => this.#open === 0, 'the last stop settles')
    const held = [...this.#storage.events.values()].filter(
      ({ id, state, attempt }) => state === 'leased' && !this.#others.has(`${id} ${attempt}`),
    )
    if (held.length > 0) this.wrong.push('the bus has stopped, and holds a lease')
    const pending = this.#clock.pending
    if (pending > 0) this.wrong.push(`the bus has stopped, and ${pending} timers are pending`)
    const { length } = this.#runs
    const extended = this.#extended
    const calls = this.#calls
    await this.#time.advance(2 * LEASE_MS)
    if (this.#runs.length > length) this.wrong.push('the bus has stopped, and handles something')
    if (this.#extended > extended) this.wrong.push('the bus has stopped, and keeps a lease')
    if (this.#calls > calls) this.wrong.push('the bus has stopped, and asks its database for something')
  }

  /** What was given back does not count. */
  #attempts(): void {
    for (const { id, attempt } of this.#runs) {
      const most = 1 + (this.#counted.get(id) ?? 0)
      if (attempt > most) this.wrong.push(`attempt ${attempt} at an event, of which ${most - 1} count`)
    }
  }

  #count(id: string): void {
    this.#counted.set(id, (this.#counted.get(id) ?? 0) + 1)
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#time.after(ms, resolve))
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const giveUpAt = this.#time.now() + ENOUGH_MS
    for (let step = STEP_MS; ; step *= 1.5) {
      await setImmediate()
      await setImmediate()
      if (condition()) return
      if (this.#time.now() > giveUpAt) return void this.wrong.push(`not so: ${what}`)
      await this.#time.advance(step)
    }
  }
}

class LiveOutbox extends Outbox {
  constructor(storage: Storage<unknown>, clock: CountedClock) {
    super(storage, { clock, logger: false })
  }
}
