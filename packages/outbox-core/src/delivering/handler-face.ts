import type { EventOptions } from '../emitting/event.ts'
import type { Logger } from '../logger.ts'
import type { Attempt } from './attempt.ts'
import type { EmitSession } from './emit-session.ts'

/** Emits an event in the write that completes the one being handled. */
export type EmitInHandler = (
  type: string,
  payload: unknown,
  options?: Omit<EventOptions, 'id'>,
) => Promise<string>

/** What a handler gets beside its event, below the typed surface; made when asked for, since most look at none of it. */
export class HandlerFace {
  readonly #attempt: Attempt
  readonly #session: EmitSession

  constructor(attempt: Attempt, session: EmitSession) {
    this.#attempt = attempt
    this.#session = session
  }

  get emit(): EmitInHandler {
    return (type, payload, options = {}) => this.#session.emit(type, payload, options)
  }

  get signal(): AbortSignal {
    return this.#attempt.signal
  }

  get attempt(): number {
    return this.#attempt.number
  }

  get logger(): Logger {
    return this.#attempt.logger
  }
}
