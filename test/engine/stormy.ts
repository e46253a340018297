import { setImmediate } from 'node:timers/promises'
import { Book } from './book.ts'
import { gate } from './gate.ts'
import type { Ground } from './ground.ts'
import type { Script } from './script.ts'
import { Fortune, type Weather } from './weather.ts'
import { type Fate, LEASE_MS, SLIP, type Worker, worker } from './worker.ts'

const WORKERS = 2
const STEP_MS = LEASE_MS / 2

/** At most so many faults, so that no step runs out of its attempts by them: each takes one, the script another. */
export const MOST_FAULTS = 3
const STORMY_ATTEMPTS = MOST_FAULTS + 3

/** Runs a slip on several workers at once, in whatever weather. */
export async function weathered(script: Script, ground: Ground, weather: Weather): Promise<Book> {
  const book = new Book(ground)
  const crew = new Crew(ground, book, weather)
  await crew.human.emit(script)
  for (let turns = 0; book.open().length > 0; turns++) {
    if (turns > 50_000) throw new Error('the slip does not come to an end')
    crew.fill()
    weather.thaw()
    await setImmediate()
    if (weather.waiting > 0) await weather.next()
    else if (book.open().some(({ state }) => state === 'dead')) await crew.mend()
    else await ground.advance(STEP_MS)
  }
  weather.calm()
  await crew.leave()
  return book
}

/** Workers, and a human whom nothing befalls. */
class Crew {
  readonly human: Worker
  readonly #ground: Ground
  readonly #book: Book
  readonly #weather: Weather
  readonly #workers = new Map<Fortune, Worker>()
  readonly #mended = new Set<string>()
  #hired = 0

  constructor(ground: Ground, book: Book, weather: Weather) {
    this.#ground = ground
    this.#book = book
    this.#weather = weather
    const { storage, clock } = ground
    const fate: Fate = {
      befall: async () => {},
      mended: (phase, step) => this.#mended.has(`${phase} ${step}`),
    }
    const calm = gate(storage, book, { through: ({ run }) => run() })
    this.human = worker(calm, clock, book, fate, STORMY_ATTEMPTS)
  }

  /** Starts a worker for each that is dead. */
  fill(): void {
    for (const fortune of this.#workers.keys()) if (fortune.dead) this.#workers.delete(fortune)
    while (this.#workers.size < WORKERS) this.#hire()
  }

  async mend(): Promise<void> {
    this.#mended.add(this.#book.furthest)
    if (!(await this.human.engine.resume(SLIP))) throw new Error('there is nothing to resume')
  }

  async leave(): Promise<void> {
    const leaving = Promise.all([...this.#workers].map(([{ dead }, { bus }]) => !dead && bus.stop()))
    let left = false
    void leaving.then(() => {
      left = true
    })
    while (!left) {
      if (this.#weather.waiting > 0) await this.#weather.next()
      else await this.#ground.advance(1_000)
    }
  }

  #hire(): void {
    const name = `worker ${this.#hired++}`
    const fortune = new Fortune(name, this.#weather)
    const fate: Fate = {
      befall: () => fortune.alive(`${name} runs`),
      mended: (phase, step) => this.#mended.has(`${phase} ${step}`),
    }
    const { storage, clock } = this.#ground
    const hired = worker(gate(storage, this.#book, fortune), clock, this.#book, fate, STORMY_ATTEMPTS)
    this.#workers.set(fortune, hired)
    void hired.bus.start()
  }
}
