import type { Outbox } from '../outbox.ts'

const BATCH = 1000

/** Removes expired payloads and finished events past their retention, in bounded batches, while the bus runs. */
export class Purger {
  readonly #outbox: Outbox
  readonly #everyMs: number
  #cancel: (() => void) | undefined
  #purging: Promise<void> = Promise.resolve()

  constructor(outbox: Outbox, everyMs: number) {
    this.#outbox = outbox
    this.#everyMs = everyMs
  }

  start(): void {
    // Up to a tenth earlier, so that processes started together do not purge together.
    const pause = this.#everyMs * (1 - Math.random() / 10)
    this.#cancel = this.#outbox.clock.after(pause, () => {
      this.#purging = this.#purge().then(() => {
        if (this.#cancel) this.start()
      })
    })
  }

  async stop(): Promise<void> {
    this.#cancel?.()
    this.#cancel = undefined
    await this.#purging
  }

  async #purge(): Promise<void> {
    try {
      while (this.#cancel) {
        const { events, payloads } = await this.#outbox.purge(BATCH)
        if (events < BATCH && payloads < BATCH) return
      }
    } catch {
      // Logged where it happened; the next round tries again.
    }
  }
}
