import { setImmediate } from 'node:timers/promises'
import { StorageError } from 'outbox-core'
import type { Ground } from '../engine/ground.ts'
import { broken } from './check.ts'
import { type Fault, Faults, LEASE_MS } from './faults.ts'
import { gated, gatedStore } from './gate.ts'
import { isQuiet, Ledger } from './ledger.ts'
import { OwnStore } from './own-store.ts'
import { ACTIVITY_PAUSE_MS, type Way, type Worker, worker } from './worker.ts'

/** What is asked for, and by how many workers it is done. */
export interface Script {
  readonly jobs: readonly Way[]
  /** Whether the jobs are emitted in one transaction. */
  readonly together: boolean
  /** Whether a routing slip is started as well. */
  readonly slip: boolean
  /** Whether slips are in a store of the user's own. */
  readonly ownStore?: boolean
  readonly workers: number
}

export interface Played {
  /** What does not hold; empty when all is well. */
  readonly wrong: readonly string[]
  readonly calls: number
  readonly met: Faults['met']
  readonly trace: readonly string[]
}

// An outcome that can't be written is kept for ten leases, a handler that hangs for four, and what is lost then begins anew.
const PATIENCE_MS = LEASE_MS * 60
const STEP_MS = 1_000
const PROBE = 'probe'

/** Plays a script with workers that meet faults, then with a healthy one if need be, and says what is wrong then. */
export async function play(script: Script, plan: readonly Fault[], ground: Ground): Promise<Played> {
  const stray: unknown[] = []
  const note = (error: unknown): void => void stray.push(error)
  process.on('unhandledRejection', note)
  process.on('uncaughtException', note)
  try {
    const course = new Course(script, plan, ground)
    const wrong = await course.run()
    const died = stray.map((error) => `the process dies: ${error}`)
    const { calls, met, trace } = course.faults
    return { wrong: [...died, ...wrong], calls, met, trace }
  } finally {
    process.off('unhandledRejection', note)
    process.off('uncaughtException', note)
  }
}

class Course {
  readonly faults: Faults
  readonly #script: Script
  readonly #ground: Ground
  readonly #ledger = new Ledger()
  readonly #crew: readonly Worker[]
  readonly #lasting: boolean
  readonly #ownStore = new OwnStore()

  constructor(script: Script, plan: readonly Fault[], ground: Ground) {
    this.faults = new Faults(plan, ground.clock)
    this.#script = script
    this.#ground = ground
    this.#lasting = plan.some(({ lasts }) => lasts)
    this.#crew = Array.from({ length: script.workers }, (_, index) => this.#hire(`worker ${index + 1}`))
  }

  async run(): Promise<readonly string[]> {
    this.#emit()
    await setImmediate()
    for (const one of this.#crew) void this.#start(one)
    const span = PATIENCE_MS + (this.#script.slip ? 3 * ACTIVITY_PAUSE_MS : 0)
    const done = await this.#until(() => this.#isOver(), this.#lasting ? 2 * LEASE_MS : span)
    if (!done && !this.#lasting) return ['the workers stand still', ...this.#left()]
    if (!done && !(await this.#taken(span))) return ['no other worker can take what is left', ...this.#left()]
    this.faults.heal()
    if (!(await this.#probed())) return ['the workers are healed and stand still', ...this.#left()]
    const stopped = await this.#stopped()
    if (stopped.length > 0) return stopped
    return broken(this.#ledger, this.#ground, this.faults.met)
  }

  #hire(name: string, lucky = false): Worker {
    const { storage, clock } = this.#ground
    const passage = lucky ? this.faults.lucky(name) : this.faults.unlucky(name)
    return worker({
      name,
      storage: gated(gated(storage, this.#ledger.recorder), passage),
      store: this.#script.ownStore ? gatedStore(this.#ownStore, passage) : undefined,
      time: clock,
      ledger: this.#ledger,
      maxPoll: lucky ? '1s' : '5s',
    })
  }

  #emit(): void {
    const [first] = this.#crew
    if (!first) return
    const { jobs, together, slip } = this.#script
    const emit = (way: Way, index: number): Promise<string> =>
      first.bus.emit('work', { way }, { headers: { key: `job ${index}` } })
    if (together && jobs.length > 0) {
      const all = first.outbox.transaction(async () => {
        for (const [index, way] of jobs.entries()) await emit(way, index)
      })
      for (const [index, way] of jobs.entries()) this.#ledger.ask(`job ${index}`, way, all)
    } else {
      for (const [index, way] of jobs.entries()) this.#ledger.ask(`job ${index}`, way, emit(way, index))
    }
    if (slip) this.#ledger.ask('slip', 'slip', first.emitSlip())
  }

  /** Starts a worker as whoever looks after it would: until it has started. */
  async #start({ bus }: Worker): Promise<void> {
    for (;;) {
      try {
        return await bus.start()
      } catch (error) {
        const refused = error instanceof StorageError && error.blame === 'event'
        if (!refused) this.#ledger.seen.push(`a worker does not start: ${error}`)
        await new Promise<void>((resolve) => this.#ground.clock.after(STEP_MS, resolve))
      }
    }
  }

  /** Whether a healthy worker brings what is left to an end. */
  async #taken(withinMs: number): Promise<boolean> {
    const other = this.#hire('another', true)
    this.faults.giveWay()
    await this.#during(other.bus.start())
    const done = await this.#until(() => this.#isOver(), withinMs)
    await this.#during(other.bus.stop())
    return done
  }

  /** Whether the workers, healed, still take what comes. */
  async #probed(): Promise<boolean> {
    const { bus } = this.#hire('somebody', true)
    this.#ledger.ask(PROBE, 'succeeds', bus.emit('work', { way: 'succeeds' }, { headers: { key: PROBE } }))
    await setImmediate()
    return this.#until(() => this.#isOver(), PATIENCE_MS)
  }

  async #stopped(): Promise<readonly string[]> {
    const stopping = Promise.all(this.#crew.map(({ bus }) => bus.stop()))
    if (!(await this.#during(stopping))) return ['a worker does not stop']
    // What was not answered may take a lease to be given up.
    await this.#ground.advance(2 * LEASE_MS)
    const pending = this.#crew.reduce((sum, { clock }) => sum + clock.pending, 0)
    if (pending > 0) return [`${pending} timers are pending after the stop`]
    const { calls } = this.faults
    await this.#ground.advance(2 * LEASE_MS)
    return this.faults.calls > calls ? ['a worker that has stopped goes on'] : []
  }

  #isOver(): boolean {
    return this.faults.underWay === 0 && isQuiet(this.#ground)
  }

  #left(): readonly string[] {
    const open = this.#ground.events().filter(({ state }) => state === 'waiting' || state === 'leased')
    return open.map(({ id, type, state }) => `${type} ${id.slice(-6)} is ${state}`)
  }

  /** Whether `work` is over within a time in which everything is given up. */
  async #during(work: Promise<unknown>): Promise<boolean> {
    let over = false
    void work.finally(() => {
      over = true
    })
    return this.#until(() => over, PATIENCE_MS)
  }

  /** Moves the time on until something holds; says whether it does. */
  async #until(condition: () => boolean, withinMs: number): Promise<boolean> {
    const { clock } = this.#ground
    const began = clock.now()
    for (;;) {
      await setImmediate()
      await setImmediate()
      if (condition()) return true
      const passed = clock.now() - began
      if (passed >= withinMs) return false
      await this.#ground.advance(Math.max(STEP_MS, passed / 10))
    }
  }
}
