import type { Outcome } from 'outbox-core'

/** One write script in a MULTI. */
export interface QueuedWrite {
  /** Where among the replies its own is. */
  readonly position: number
  readonly outcomes: readonly Outcome[]
}

/** What a transaction has been given so far: nothing of it is in Redis before EXEC. */
export class Queued {
  readonly writes: QueuedWrite[] = []
  ended = false
  readonly #settled = new Set<string>()
  readonly #appended = new Map<string, string | null>()
  readonly #payloads = new Map<string, Uint8Array | 'removed'>()

  add({ settle, append, put, remove }: Outcome): void {
    if (settle) this.#settled.add(settle.id)
    for (const { id, fingerprint } of append) this.#appended.set(id, fingerprint)
    for (const { id, data } of put) this.#payloads.set(id, data)
    for (const id of remove) this.#payloads.set(id, 'removed')
  }

  hasSettled(id: string): boolean {
    return this.#settled.has(id)
  }

  /** The fingerprint of an event that was appended; undefined when it was not. */
  fingerprint(id: string): string | null | undefined {
    return this.#appended.get(id)
  }

  /** What was put under an id, `'removed'`, or undefined when it was not touched. */
  payload(id: string): Uint8Array | 'removed' | undefined {
    const found = this.#payloads.get(id)
    return typeof found === 'object' ? found.slice() : found
  }
}
