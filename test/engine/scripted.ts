import { setImmediate } from 'node:timers/promises'
import type { LeasedEvent } from 'outbox-core'
import { Book } from './book.ts'
import { type Call, gate, never, type Passage } from './gate.ts'
import type { Ground } from './ground.ts'
import { ATTEMPTS } from './model.ts'
import type { Mishap, Script } from './script.ts'
import { DEADLINE_MS, type Fate, LEASE_MS, SLIP, type Worker, worker } from './worker.ts'

const STEP_MS = LEASE_MS / 2

// Turns of the event loop in which nothing happens before the time moves on.
const QUIET_TURNS = 3

/** Runs a slip by its script on one worker after the other. */
export async function play(script: Script, ground: Ground): Promise<Book> {
  const book = new Book(ground)
  const cast = new Cast(ground, book)
  await cast.start(script)
  for (let turns = 0, quiet = 0; book.open().length > 0; turns++) {
    if (turns > 20_000) throw new Error('the slip does not come to an end')
    const { happened } = book
    await setImmediate()
    quiet = book.happened === happened ? quiet + 1 : 0
    if (quiet < QUIET_TURNS) continue
    if (book.open().some(({ state }) => state === 'dead')) await cast.mend()
    else if (cast.gone) await cast.replace()
    else await ground.advance(STEP_MS)
  }
  await cast.stop()
  return book
}

/** The worker that there is, and the one whose last write is still on its way. */
class Cast {
  readonly #ground: Ground
  readonly #book: Book
  readonly #mended = new Set<string>()
  #life = new Life()
  #worker: Worker
  #frozen: Life | undefined

  constructor(ground: Ground, book: Book) {
    this.#ground = ground
    this.#book = book
    this.#worker = this.#hire(this.#life)
  }

  async start(script: Script): Promise<void> {
    await this.#worker.emit(script)
    await this.#worker.bus.start()
  }

  stop(): Promise<void> {
    return this.#worker.bus.stop()
  }

  get gone(): boolean {
    return this.#life.gone
  }

  /** Another one, when the lease of the last has run out. */
  async replace(): Promise<void> {
    if (this.#life.frozen) this.#frozen = this.#life
    await this.#ground.advance(this.#life.outage ? DEADLINE_MS + LEASE_MS : LEASE_MS)
    this.#life = new Life()
    this.#worker = this.#hire(this.#life)
    await this.#worker.bus.start()
  }

  async mend(): Promise<void> {
    this.#mended.add(this.#book.furthest)
    if (this.gone) await this.replace()
    if (!(await this.#worker.engine.resume(SLIP))) throw new Error('there is nothing to resume')
  }

  #hire(life: Life): Worker {
    const { storage, clock } = this.#ground
    const fate: Fate = {
      befall: (mishap, isFirst) => this.#befall(life, mishap, isFirst),
      mended: (phase, step) => this.#mended.has(`${phase} ${step}`),
    }
    return worker(gate(storage, this.#book, life), clock, this.#book, fate, ATTEMPTS)
  }

  async #befall(life: Life, mishap: Mishap | undefined, isFirst: boolean): Promise<void> {
    if (mishap === 'killed by it') return life.end()
    if (!isFirst) {
      // Both hold the event now: only the attempt number tells whose write counts.
      await this.#frozen?.thaw()
      this.#frozen = undefined
      return
    }
    if (mishap === 'killed before it') return life.end()
    life.mishap = mishap
  }
}

/** How long one worker lives. */
class Life implements Passage {
  mishap: Mishap | undefined
  #gone = false
  /** Of the event that carries the slip. */
  #stepId: string | undefined
  readonly #thawing = Promise.withResolvers<void>()
  readonly #thawed = Promise.withResolvers<void>()

  get gone(): boolean {
    return this.#gone
  }

  get frozen(): boolean {
    return this.#gone && this.mishap === 'frozen after it'
  }

  get outage(): boolean {
    return this.mishap === 'outage after it'
  }

  end(): Promise<never> {
    this.#gone = true
    return never()
  }

  /** Lets the last write of a frozen worker through; resolves when it is done. */
  thaw(): Promise<void> {
    this.#thawing.resolve()
    return this.#thawed.promise
  }

  async through<R>({ verb, outcomes, run }: Call<R>): Promise<R> {
    if (this.#gone) return never()
    const last = this.mishap && outcomes.some(({ settle }) => settle?.id === this.#stepId)
    if (!last) {
      const result = await run()
      if (verb === 'lease') this.#leased(result as readonly LeasedEvent[])
      else this.#leased(outcomes.flatMap(({ append }) => append.filter(({ leased }) => leased)))
      return this.#gone ? never() : result
    }
    this.#gone = true
    if (this.mishap === 'frozen after it') await this.#thawing.promise
    await run()
    this.#thawed.resolve()
    return never()
  }

  #leased(events: readonly { readonly id: string; readonly type: string }[]): void {
    for (const { id, type } of events) if (type === 'saga.step') this.#stepId = id
  }
}
