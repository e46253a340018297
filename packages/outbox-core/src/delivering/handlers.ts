import { addressOf } from '../emitting/address.ts'
import { userHeaders } from '../emitting/event.ts'
import { ConfigurationError, DuplicateRegistrationError } from '../errors.ts'
import { type Duration, durationMs, wholeNumber } from '../options.ts'
import type { Attempt } from './attempt.ts'
import { type DispatcherSettings, deadPolicy } from './bus-options.ts'
import type { EmitSession } from './emit-session.ts'
import { HandlerFace } from './handler-face.ts'
import type { Registration, Registrations } from './registrations.ts'
import { type RetryOptions, type RetryPolicy, retryPolicy } from './retry.ts'

/** Options of one handler. */
export interface HandlerOptions {
  /** @default the bus's policy */
  readonly retry?: RetryOptions
  /** @default the bus's `handlerTimeout` */
  readonly timeout?: Duration
  /**
   * Most events of each of its types that this process has in hand at the same time.
   * @default as many as the bus's `concurrency` lets
   */
  readonly concurrency?: number
  /**
   * Tells several handlers of one type apart: each event goes to all of them, each with attempts and dead letters of its
   * own. Every process that handles the type registers the same names. Letters, digits, _ and -, at most 40.
   * @default the only handler of its type
   */
  readonly name?: string
  /**
   * What a dead letter with a key does to later events of that key: it holds them back until it is retried or
   * discarded, or they go on without it (retried, it is then handled in no order).
   * @default the bus's `onDead`, `'hold'`
   */
  readonly onDead?: 'hold' | 'skip'
}

/** A handler, below the typed surface. */
export type Handle = (event: Attempt['event'], context: HandlerFace) => unknown

interface HandlersParts {
  readonly registrations: Registrations
  readonly settings: DispatcherSettings
  readonly retry: RetryPolicy
}

/** What handles everything that has no handler of its own. */
const OTHERS = '*'

/** Turns what users hand over as handlers into registrations. */
export class Handlers {
  readonly #parts: HandlersParts

  constructor(parts: HandlersParts) {
    this.#parts = parts
  }

  /** @throws InvalidEventError, DuplicateRegistrationError, ConfigurationError */
  add(types: string | readonly string[], handle: Handle, options: HandlerOptions): void {
    const { registrations } = this.#parts
    const registration = this.#registration(handle, options)
    const { name } = options
    if (types === OTHERS) {
      if (name !== undefined) throw new ConfigurationError('name', name, 'the handler of "*" takes none')
      registrations.addOthers(registration)
      return
    }
    for (const type of typeof types === 'string' ? [types] : types) {
      if (name === undefined) registrations.add(type, registration)
      else this.#addNamed(type, checkedName(name), registration)
    }
  }

  #registration(handle: Handle, options: HandlerOptions): Registration {
    const { settings, retry } = this.#parts
    const { timeout, concurrency, onDead = settings.onDead } = options
    return {
      retry: options.retry ? retryPolicy(options.retry) : retry,
      timeoutMs: timeout === undefined ? settings.handlerTimeoutMs : durationMs('timeout', timeout),
      concurrency: concurrency === undefined ? undefined : wholeNumber('concurrency', concurrency, 1, 10_000),
      skips: deadPolicy(onDead) === 'skip',
      handle: (attempt, session) => {
        attempt.place = 'handler'
        return ended(handle(attempt.event, new HandlerFace(attempt, session)))
      },
    }
  }

  #addNamed(type: string, name: string, registration: Registration): void {
    const { registrations } = this.#parts
    const known = registrations.own(type)
    if (known && !known.fansOut) {
      throw new DuplicateRegistrationError(
        `event "${type}" has a handler without a name; give each handler of the type a name of its own`,
      )
    }
    registrations.add(addressOf(type, name), registration)
    registrations.replace(type, this.#fanOut([...(known?.fansOut ?? []), name]))
  }

  /** Hands an event on to each of several handlers, in the write that completes it. */
  #fanOut(names: readonly string[]): Registration {
    const { settings, retry } = this.#parts
    return {
      retry,
      timeoutMs: settings.handlerTimeoutMs,
      fansOut: names,
      handle: async (attempt, session) => {
        for (const name of names) await handOn(attempt, session, name)
      },
    }
  }
}

const LONGEST_ID = 255

function handOn(attempt: Attempt, session: EmitSession, name: string): void | Promise<void> {
  const { type, payload, headers, leased } = attempt
  const id = addressOf(leased.id, name)
  const options = { headers: userHeaders(headers), ...(leased.key !== null && { key: leased.key }) }
  return session.add(type, payload, options, {
    address: addressOf(type, name),
    inPlace: true,
    ...(id.length <= LONGEST_ID && { id }),
  })
}

function checkedName(name: string): string {
  if (typeof name === 'string' && /^[A-Za-z0-9_-]{1,40}$/.test(name)) return name
  throw new ConfigurationError('name', name, 'it has 1 to 40 letters, digits, _ and -')
}

/** Waits for whatever can be waited for; what a handler returns means nothing else. */
function ended(returned: unknown): void | Promise<void> {
  if (returned instanceof Promise) return returned
  const { then } = (returned ?? {}) as { then?: unknown }
  if (typeof then === 'function') return Promise.resolve(returned).then(() => {})
}
