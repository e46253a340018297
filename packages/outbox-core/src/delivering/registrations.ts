import { checkedType } from '../emitting/event.ts'
import { DuplicateRegistrationError } from '../errors.ts'
import type { Attempt } from './attempt.ts'
import type { EmitSession } from './emit-session.ts'
import type { RetryPolicy } from './retry.ts'

/** What handles the events of one type. */
export interface Registration {
  readonly retry: RetryPolicy
  readonly timeoutMs: number
  /** Sets `attempt.place` once it goes into the user's own code. */
  handle(attempt: Attempt, session: EmitSession): void | Promise<void>
  /** Called before the next attempt is put off for so long. Must not reject. */
  delayed?(attempt: Attempt, delayMs: number): Promise<void>
  /** Called before the event is buried: what it emits becomes part of that write. */
  buried?(attempt: Attempt, session: EmitSession, error: Error): Promise<void>
}

/** What handles the events of each type in this process. */
export class Registrations {
  readonly #byType = new Map<string, Registration>()

  /** @throws InvalidEventError, DuplicateRegistrationError */
  add(type: string, registration: Registration): void {
    checkedType(type)
    if (this.#byType.has(type)) {
      throw new DuplicateRegistrationError(`event "${type}" has a handler already; one type has one handler`)
    }
    this.#byType.set(type, registration)
  }

  get(type: string): Registration | undefined {
    return this.#byType.get(type)
  }

  has(type: string): boolean {
    return this.#byType.has(type)
  }
}
