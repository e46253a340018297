import type { Clock } from '../clock.ts'

/** Pauses that can all be cut short, once and for good. */
export class Pauses {
  readonly #clock: Clock
  readonly #running = new Set<() => void>()
  #ended = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  pause(ms: number): Promise<void> {
    if (this.#ended) return Promise.resolve()
    return new Promise((resolve) => {
      const over = (): void => {
        this.#running.delete(over)
        cancel()
        resolve()
      }
      const cancel = this.#clock.after(ms, over)
      this.#running.add(over)
    })
  }

  end(): void {
    this.#ended = true
    for (const over of this.#running) over()
  }
}
