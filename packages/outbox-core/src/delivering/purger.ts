import type { OutboxCore } from '../emitting/outbox-core.ts'
import { answeredWithin } from './deadline.ts'

const BATCH = 1000

/**
 * Removes expired payloads and finished events past their retention, in bounded batches, while the bus runs; and looks
 * for keys that nobody has let go on.
 */
export class Purger {
  readonly #core: OutboxCore
  readonly #everyMs: number
  readonly #deadlineMs: number
  #running = false
  #cancel: (() => void) | undefined
  #purging: Promise<void> = Promise.resolve()

  constructor(
    core: OutboxCore,
    timing: { readonly purgeIntervalMs: number; readonly hardDeadlineMs: number },
  ) {
    this.#core = core
    this.#everyMs = timing.purgeIntervalMs
    this.#deadlineMs = timing.hardDeadlineMs
  }

  start(): void {
    this.#running = true
    // Up to a tenth earlier, so that processes started together do not purge together.
    const pause = this.#everyMs * (1 - Math.random() / 10)
    this.#cancel = this.#core.clock.after(pause, () => {
      this.#purging = this.#purge().then(() => {
        if (this.#running) this.start()
      })
    })
  }

  async stop(): Promise<void> {
    this.#running = false
    this.#cancel?.()
    await this.#purging
  }

  async #purge(): Promise<void> {
    try {
      while (this.#running) {
        const purging = answeredWithin(this.#core.clock, this.#deadlineMs, () =>
          this.#core.purge(BATCH, { background: true }),
        )
        const { events, payloads, more } = await purging
        if (!more && events < BATCH && payloads < BATCH) break
      }
      if (this.#running)
        await answeredWithin(this.#core.clock, this.#deadlineMs, () => this.#core.keys.sweep())
    } catch {
      // Logged where it happened; the next round tries again.
    }
  }
}
