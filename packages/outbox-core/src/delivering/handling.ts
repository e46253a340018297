import type { StandardSchemaV1 } from '@standard-schema/spec'
import type { Clock } from '../clock.ts'
import { validate } from '../emitting/schema.ts'
import {
  HandlerMissingError,
  isPermanent,
  LeaseLostError,
  PermanentError,
  RetryLaterError,
  StoppingError,
  TimeoutError,
  toError,
} from '../errors.ts'
import { errorFields, type Logger } from '../logger.ts'
import type { MiddlewareChain } from '../middleware.ts'
import type { Outcome, Settlement } from '../storage.ts'
import type { Delivery } from './delivery.ts'
import type { RetryPolicy } from './retry.ts'

/** What handles the events of one type. */
export interface Registration {
  readonly retry: RetryPolicy
  readonly timeoutMs: number
  handle(delivery: Delivery): void | Promise<void>
  /** Called before the event is buried: what it emits becomes part of that write. */
  buried?(delivery: Delivery, error: Error): Promise<void>
}

/** One attempt, from the leased event to the outcome that has to be written. */
export class Handling {
  readonly #registrations: ReadonlyMap<string, Registration>
  readonly #middleware: MiddlewareChain
  readonly #schemas: ReadonlyMap<string, StandardSchemaV1>
  readonly #unknownType: RetryPolicy
  readonly #clock: Clock
  readonly #logger: Logger

  constructor(parts: {
    registrations: ReadonlyMap<string, Registration>
    middleware: MiddlewareChain
    schemas: ReadonlyMap<string, StandardSchemaV1>
    unknownType: RetryPolicy
    clock: Clock
    logger: Logger
  }) {
    this.#registrations = parts.registrations
    this.#middleware = parts.middleware
    this.#schemas = parts.schemas
    this.#unknownType = parts.unknownType
    this.#clock = parts.clock
    this.#logger = parts.logger
  }

  handles(type: string): boolean {
    return this.#registrations.has(type)
  }

  /** Runs the handler and says what to write. Never throws. */
  async outcome(delivery: Delivery): Promise<Outcome> {
    const registration = this.#registrations.get(delivery.type)
    try {
      // While it waited for its turn.
      if (delivery.abortReason) throw delivery.abortReason
      if (!registration) throw new HandlerMissingError(delivery.type)
      this.#refuseExhausted(delivery, registration)
      const running = this.#run(delivery, registration)
      if (running) await this.#limited(delivery, registration, running)
      const emitting = delivery.close()
      if (emitting) await emitting
      return completed(delivery)
    } catch (thrown) {
      return this.#failed(delivery, registration, toError(thrown))
    }
  }

  // An attempt is counted when it is leased: one that killed its process left no other trace.
  #refuseExhausted({ attempt }: Delivery, { retry }: Registration): void {
    if (attempt <= retry.maxAttempts) return
    throw new PermanentError(
      `all ${retry.maxAttempts} attempts ended without a report: the process died or hung while handling this event`,
    )
  }

  #run(delivery: Delivery, registration: Registration): void | Promise<void> {
    delivery.payload = parsed(delivery.leased.body)
    return this.#middleware.handle(delivery, () => {
      const schema = this.#schemas.get(delivery.type)
      if (!schema) return registration.handle(delivery)
      return checked(delivery, schema).then(() => registration.handle(delivery))
    })
  }

  async #limited(delivery: Delivery, { timeoutMs }: Registration, running: Promise<void>): Promise<void> {
    const cancel = this.#clock.after(timeoutMs, () => {
      delivery.abort(
        new TimeoutError(`the handler of event "${delivery.type}" took longer than ${timeoutMs} ms`),
      )
    })
    try {
      await delivery.attend(running)
    } finally {
      cancel()
    }
  }

  async #failed(delivery: Delivery, registration: Registration | undefined, error: Error): Promise<Outcome> {
    delivery.discard()
    if (delivery.abortReason instanceof StoppingError || delivery.abortReason instanceof LeaseLostError) {
      return released(delivery)
    }
    const retry = registration?.retry ?? this.#unknownType
    if (isPermanent(error) || delivery.attempt >= retry.maxAttempts)
      return this.#buried(delivery, registration, error)
    const delayMs = error instanceof RetryLaterError ? error.delayMs : retry.delayAfter(delivery.attempt)
    const reason = error instanceof RetryLaterError && error.cause ? toError(error.cause) : error
    this.#logger.warn(
      { ...delivery.logFields, delayMs, error: errorFields(reason) },
      'attempt failed, will retry',
    )
    const put = delivery.renewalIfShort(delayMs, this.#clock.now())
    return { ...settled(delivery, { kind: 'retry', delayMs, error: errorText(reason), counted: true }), put }
  }

  async #buried(delivery: Delivery, registration: Registration | undefined, error: Error): Promise<Outcome> {
    this.#logger.error({ ...delivery.logFields, error: errorFields(error) }, 'event buried as a dead letter')
    try {
      await registration?.buried?.(delivery, error)
      await delivery.close()
    } catch (thrown) {
      const fields = { ...delivery.logFields, error: errorFields(toError(thrown)) }
      this.#logger.error(fields, 'what should follow a burial failed; buried all the same')
    }
    const settle: Settlement = { ...lease(delivery), kind: 'bury', error: errorText(error) }
    const { append, put, routingSlipId } = delivery
    return { settle, append, put: [...put, ...delivery.renewal(0)], remove: [], routingSlipId }
  }
}

/** Gives a lease back as if the attempt had not been. */
export function released(delivery: Delivery): Outcome {
  return settled(delivery, { kind: 'retry', delayMs: 0, error: null, counted: false })
}

/** Buries an event whose outcome the database refuses for good. */
export function refused(delivery: Delivery, error: Error): Outcome {
  return settled(delivery, { kind: 'bury', error: errorText(error) })
}

function completed(delivery: Delivery): Outcome {
  const { append, put, remove, routingSlipId, keepMs } = delivery
  return { settle: { ...lease(delivery), kind: 'complete', keepMs }, append, put, remove, routingSlipId }
}

type SettlementOf<Kind> = Extract<Settlement, { kind: Kind }>
type Verdict = Omit<SettlementOf<'retry'>, 'id' | 'attempt'> | Omit<SettlementOf<'bury'>, 'id' | 'attempt'>

function settled(delivery: Delivery, verdict: Verdict): Outcome {
  const settle: Settlement = { ...lease(delivery), ...verdict }
  return { settle, append: [], put: [], remove: [], routingSlipId: delivery.routingSlipId }
}

function lease({ leased }: Delivery): { id: string; attempt: number } {
  return { id: leased.id, attempt: leased.attempt }
}

function errorText(error: Error): string {
  const { name, code, message } = errorFields(error)
  return `${name}${code ? ` [${code}]` : ''}: ${message}`
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch (cause) {
    // V8's message quotes the text, which is the payload.
    throw new PermanentError('the stored event is not JSON', { cause: new Error((cause as Error).name) })
  }
}

async function checked(delivery: Delivery, schema: StandardSchemaV1): Promise<void> {
  delivery.payload = await validate(delivery.type, schema, delivery.payload)
}
