import { addressedTo, typeOf } from '../emitting/address.ts'
import { checkedType } from '../emitting/checks.ts'
import { DuplicateRegistrationError } from '../errors.ts'
import type { Attempt } from './attempt.ts'
import type { EmitSession } from './emit-session.ts'
import type { RetryPolicy } from './retry.ts'

/** What handles the events of one address. */
export interface Registration {
  readonly retry: RetryPolicy
  readonly timeoutMs: number
  /** Most of them at the same time in this process. @default as many as of all */
  readonly concurrency?: number | undefined
  /** Whether the key of a dead letter goes on without it. @default false */
  readonly skips?: boolean
  /** The named handlers that its events go on to. @default none: it handles them */
  readonly fansOut?: readonly string[]
  /** Sets `attempt.place` once it goes into the user's own code. */
  handle(attempt: Attempt, session: EmitSession): void | Promise<void>
  /** Called before the next attempt is put off for so long. Must not reject. */
  delayed?(attempt: Attempt, delayMs: number): Promise<void>
  /** Called before the event is buried: what it emits becomes part of that write. */
  buried?(attempt: Attempt, session: EmitSession, error: Error): Promise<void>
}

/** What handles the events of each address in this process. */
export class Registrations {
  readonly #byAddress = new Map<string, Registration>()
  #others: Registration | undefined

  /** @throws InvalidEventError, DuplicateRegistrationError */
  add(address: string, registration: Registration): void {
    checkedType(typeOf(address))
    if (this.#byAddress.has(address)) {
      throw new DuplicateRegistrationError(
        `event "${address}" has a handler already; give each handler of a type a name of its own`,
      )
    }
    this.#byAddress.set(address, registration)
  }

  /** Handles events that are addressed to nobody in particular and have no handler of their own. @throws DuplicateRegistrationError */
  addOthers(registration: Registration): void {
    if (this.#others) throw new DuplicateRegistrationError('"*" has a handler already')
    this.#others = registration
  }

  /** What was added for just this address. */
  own(address: string): Registration | undefined {
    return this.#byAddress.get(address)
  }

  /** Replaces what has been added, or adds it. */
  replace(address: string, registration: Registration): void {
    this.#byAddress.set(address, registration)
  }

  get(address: string): Registration | undefined {
    return this.#byAddress.get(address) ?? (addressedTo(address) === undefined ? this.#others : undefined)
  }

  has(address: string): boolean {
    return this.get(address) !== undefined
  }

  get isEmpty(): boolean {
    return this.#byAddress.size === 0 && !this.#others
  }

  /** Those that have a handler of their own. */
  get addresses(): Iterable<string> {
    return this.#byAddress.keys()
  }

  /** Whether whatever else is addressed to nobody in particular is handled too. */
  get takesOthers(): boolean {
    return this.#others !== undefined
  }
}
