import type { Emission, Emitted } from '../emitting/emission.ts'
import { Draft, type EventOptions, type OwnOptions } from '../emitting/event.ts'
import { Watch } from '../emitting/watched.ts'
import { TransactionClosedError } from '../errors.ts'
import type { NewEvent, PayloadRecord } from '../storage.ts'

const ADVICE = 'await every emit inside the handler of its event'

/** The promises that a handler got; most handlers emit nothing, and the library looks after its own. */
interface HandedOut {
  readonly watch: Watch
  readonly preparing: Set<Promise<unknown>>
}

const NOTHING: readonly never[] = []

/** What one attempt emits: open while its handler runs, then sealed once, and written with the event's settlement or dropped. */
export class EmitSession {
  readonly #emission: Emission
  readonly #late: (error: unknown) => void
  /** In the order of the calls; empty places are still being prepared, or have failed. */
  #emitted: (Emitted | undefined)[] | undefined
  #handedOut: HandedOut | undefined
  #sealed = false

  /** @param late told of an emit that failed after the seal, and that nobody handled */
  constructor(emission: Emission, late: (error: unknown) => void) {
    this.#emission = emission
    this.#late = late
  }

  /**
   * For handlers. A failure that nobody handles fails the attempt, and is no unhandled rejection.
   *
   * @returns the event's id
   * @throws TransactionClosedError after the seal
   */
  emit(type: string, payload: unknown, options: Omit<EventOptions, 'id'>): Promise<string> {
    const { watch, preparing } = this.#handOut()
    const emitting = this.#emit(type, payload, options)
    preparing.add(emitting)
    const over = (): void => void preparing.delete(emitting)
    emitting.then(over, over)
    return watch.over(emitting)
  }

  /** For the library itself, which awaits it; a promise only if there is something to wait for. */
  add(type: string, payload: unknown, options: EventOptions, own: OwnOptions): void | Promise<void> {
    return this.#prepare(new Draft(type, payload, options, own), payload)
  }

  /**
   * Waits for emits that the handler did not await, and takes no more; a promise only if there is something to wait for.
   *
   * @throws the failure of an emit that nobody has handled
   */
  seal(): void | Promise<void> {
    const { preparing, watch } = this.#handedOut ?? {}
    if (preparing && preparing.size > 0)
      return Promise.allSettled(preparing)
        .then(() => watch?.passedOn())
        .then(() => this.seal())
    this.#sealed = true
    watch?.close()
    if (watch?.unattended) throw watch.unattended.error
  }

  /** Takes no more and forgets what was emitted. A promise as long as something is still being prepared. */
  drop(): Promise<unknown> | undefined {
    this.#sealed = true
    const { preparing, watch } = this.#handedOut ?? {}
    watch?.close()
    return preparing && preparing.size > 0 ? Promise.allSettled(preparing) : undefined
  }

  /** Forgets what was added so far. */
  restart(): void {
    this.#emitted = undefined
  }

  get append(): readonly NewEvent[] {
    return this.#emitted?.flatMap((one) => one?.append ?? []) ?? NOTHING
  }

  get put(): readonly PayloadRecord[] {
    return this.#emitted?.flatMap((one) => one?.put ?? []) ?? NOTHING
  }

  #handOut(): HandedOut {
    if (!this.#handedOut) {
      this.#handedOut = { watch: new Watch(this.#late), preparing: new Set() }
      if (this.#sealed) this.#handedOut.watch.close()
    }
    return this.#handedOut
  }

  async #emit(type: string, payload: unknown, options: EventOptions): Promise<string> {
    if (this.#sealed) throw new TransactionClosedError(ADVICE)
    const draft = new Draft(type, payload, { ...options, id: undefined })
    const pending = this.#prepare(draft, payload)
    if (pending) await pending
    return draft.id
  }

  #prepare(draft: Draft, payload: unknown): void | Promise<void> {
    this.#emitted ??= []
    const emitted = this.#emitted
    const place = emitted.push(undefined) - 1
    const ready = (prepared: Emitted): void => {
      if (this.#sealed) throw new TransactionClosedError(ADVICE)
      emitted[place] = prepared
    }
    const prepared = this.#emission.prepare(draft, payload)
    return prepared instanceof Promise ? prepared.then(ready) : ready(prepared)
  }
}
