import { changeBy, type Outcome, type OutcomeResult } from 'outbox-core'
import { APPLIED, LOST } from './replies.ts'

/** One write script in a MULTI. */
export interface QueuedWrite {
  /** Where among the replies its own is. */
  readonly position: number
  readonly outcomes: readonly Outcome[]
}

/** What Redis knows of an event, as text. */
export interface EventState {
  readonly state: string
  readonly attempt: string
  readonly fingerprint: string
}

/** What Redis knows of the events that decide about an outcome. */
export interface Known {
  readonly settled: EventState | undefined
  readonly appended: EventState | undefined
}

/** What a transaction, or a part of one, has been given so far: nothing of it is in Redis before EXEC. */
export class Queued {
  readonly writes: QueuedWrite[] = []
  readonly #outer: Queued | undefined
  readonly #settled = new Set<string>()
  readonly #appended = new Map<string, string | null>()
  readonly #payloads = new Map<string, Uint8Array | 'removed'>()

  /** @param outer what was given before, when this is a part */
  constructor(outer?: Queued) {
    this.#outer = outer
  }

  add({ settle, append, put, remove }: Outcome): void {
    if (settle) this.#settled.add(settle.id)
    for (const { id, fingerprint } of append) this.#appended.set(id, fingerprint)
    for (const { id, data } of put) this.#payloads.set(id, data)
    for (const id of remove) this.#payloads.set(id, 'removed')
  }

  /** Takes over what a part was given. */
  absorb(part: Queued): void {
    this.writes.push(...part.writes)
    for (const id of part.#settled) this.#settled.add(id)
    for (const [id, fingerprint] of part.#appended) this.#appended.set(id, fingerprint)
    for (const [id, payload] of part.#payloads) this.#payloads.set(id, payload)
  }

  /** What would become of an outcome now, after what the transaction holds already. */
  judge({ settle, append: [event] }: Outcome, { settled, appended }: Known): OutcomeResult {
    if (settle) {
      const isHeld = settled?.state === changeBy(settle).from && Number(settled.attempt) === settle.attempt
      if (!isHeld || this.#hasSettled(settle.id)) return LOST
    }
    if (!event || event.fingerprint === null) return APPLIED
    const earlier = this.#fingerprint(event.id)
    if (earlier !== undefined) return { status: 'duplicate', fingerprint: earlier }
    return appended ? { status: 'duplicate', fingerprint: appended.fingerprint || null } : APPLIED
  }

  /** What was put under an id, `'removed'`, or undefined when it was not touched. */
  payload(id: string): Uint8Array | 'removed' | undefined {
    const found = this.#payloads.get(id) ?? this.#outer?.payload(id)
    return typeof found === 'object' ? found.slice() : found
  }

  #hasSettled(id: string): boolean {
    if (this.#settled.has(id)) return true
    return this.#outer ? this.#outer.#hasSettled(id) : false
  }

  /** The fingerprint of an event that was appended; undefined when it was not. */
  #fingerprint(id: string): string | null | undefined {
    if (this.#appended.has(id)) return this.#appended.get(id)
    return this.#outer ? this.#outer.#fingerprint(id) : undefined
  }
}
