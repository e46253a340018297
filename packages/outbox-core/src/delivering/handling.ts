import type { StandardSchemaV1 } from '@standard-schema/spec'
import { outsideCallers } from '../async-scope.ts'
import { type Clock, endsWithin } from '../clock.ts'
import type { Emission } from '../emitting/emission.ts'
import { CLAIM_HEADER } from '../emitting/event.ts'
import { validate } from '../emitting/schema.ts'
import type { Logger } from '../logger.ts'
import type { MiddlewareChain } from '../middleware.ts'
import type { Outcome, PayloadRecord } from '../storage.ts'
import { errFields, toError } from '../thrown.ts'
import type { Attempt } from './attempt.ts'
import { ClaimUntakenError, HandlerMissingError, PermanentError, TimeoutError } from './attempt-errors.ts'
import type { DispatcherSettings } from './bus-options.ts'
import { answeredWithin } from './deadline.ts'
import { EmitSession } from './emit-session.ts'
import { attemptAround, insideHandler } from './inside-handler.ts'
import { causeOf, judge } from './judgement.ts'
import { buried, completed, released, renewalIfShort, retried } from './outcomes.ts'
import { Patience } from './patience.ts'
import type { Registration, Registrations } from './registrations.ts'
import type { RetryPolicy } from './retry.ts'

interface HandlingParts {
  readonly registrations: Registrations
  readonly middleware: MiddlewareChain
  readonly schemas: ReadonlyMap<string, StandardSchemaV1>
  readonly emission: Emission
  /** For event types that have no handler here. */
  readonly retry: RetryPolicy
  readonly settings: Pick<DispatcherSettings, 'deferForMs' | 'hardDeadlineMs'>
  readonly clock: Clock
  readonly logger: Logger
}

// How long a failed attempt waits for what it has begun to emit; sealed, none of that counts any more.
const DROP_MS = 1_000

/** What is written together with a burial. */
type Following = Pick<Outcome, 'append' | 'put'>

const NOTHING: Following = { append: [], put: [] }

const NOT_RENEWED = 'payload not renewed'

/** One attempt, from the leased event to the outcome that has to be written. */
export class Handling {
  readonly #parts: HandlingParts
  readonly #patience: Patience

  constructor(parts: HandlingParts) {
    this.#parts = parts
    this.#patience = new Patience(parts.clock, parts.settings.deferForMs)
  }

  /** Whether the caller is code of a handler that runs. */
  get isAroundCaller(): boolean {
    return attemptAround()?.handling === this
  }

  /** Runs the handler and says what to write. Never throws. */
  async outcome(attempt: Attempt): Promise<Outcome> {
    attempt.handling = this
    const registration = this.#parts.registrations.get(attempt.leased.address)
    attempt.skips = registration?.skips ?? false
    const session = new EmitSession(this.#parts.emission, (error) => this.#tooLate(attempt, error))
    try {
      // While it waited for its turn.
      if (attempt.abortReason) throw attempt.abortReason
      if (!registration) throw new HandlerMissingError(attempt.leased.address)
      refuseExhausted(attempt, registration)
      const running = outsideCallers(() =>
        insideHandler(attempt, () => this.#run(attempt, registration, session)),
      )
      if (running) await this.#limited(attempt, registration, running)
      const sealing = session.seal()
      if (sealing) await this.#limited(attempt, registration, sealing)
      return completed(attempt, session)
    } catch (thrown) {
      const dropping = session.drop()
      if (dropping) await endsWithin(this.#parts.clock, DROP_MS, dropping)
      return this.#failed(attempt, registration, toError(thrown))
    } finally {
      attempt.handling = undefined
    }
  }

  #run(attempt: Attempt, registration: Registration, session: EmitSession): void | Promise<void> {
    attempt.payload = parsed(attempt.leased.body)
    if (attempt.headers[CLAIM_HEADER] === undefined) return this.#enter(attempt, registration, session)
    return this.#parts.middleware.moveIn(attempt).then(() => {
      if (!attempt.claimTaken) throw new ClaimUntakenError(attempt.type)
      return this.#enter(attempt, registration, session)
    })
  }

  #enter(attempt: Attempt, registration: Registration, session: EmitSession): void | Promise<void> {
    return this.#parts.middleware.handle(attempt, () => {
      const schema = this.#parts.schemas.get(attempt.type)
      if (!schema) return registration.handle(attempt, session)
      return checked(attempt, schema).then(() => registration.handle(attempt, session))
    })
  }

  async #limited(attempt: Attempt, { timeoutMs }: Registration, running: Promise<void>): Promise<void> {
    const cancel = this.#parts.clock.after(timeoutMs, () => {
      attempt.abort(
        new TimeoutError(`the handler of event "${attempt.type}" took longer than ${timeoutMs} ms`),
      )
    })
    try {
      await attempt.attend(running)
    } finally {
      cancel()
    }
  }

  async #failed(attempt: Attempt, registration: Registration | undefined, error: Error): Promise<Outcome> {
    const { clock, retry } = this.#parts
    const ageMs = Math.max(0, attempt.databaseNow(clock.elapsed()) - attempt.leased.createdAt)
    const verdict = judge({
      place: attempt.place,
      error,
      abortReason: attempt.abortReason,
      attempt: attempt.number,
      policy: registration?.retry ?? retry,
      ageMs,
      // What nobody handles is only taken once all patience with it has run out.
      outOfPatience: () =>
        registration ? this.#patience.isOver(attempt.id, ageMs) : ageMs >= this.#parts.settings.deferForMs,
    })
    if (verdict.kind === 'release') return released(attempt)
    if (verdict.kind === 'bury') return this.buried(attempt, causeOf(error))
    const { kind, delayMs } = verdict
    const reason = causeOf(error)
    this.#report(attempt, kind, { ...attempt.logFields, delayMs, ...errFields(reason) })
    const renewing = async (): Promise<readonly PayloadRecord[]> => {
      await registration?.delayed?.(attempt, delayMs)
      return renewalIfShort(attempt, delayMs, clock.now())
    }
    const put = await this.#orElse([], renewing, attempt, NOT_RENEWED)
    return { ...retried(attempt, reason, { delayMs, counted: kind === 'retry' }), put }
  }

  // What is deferred comes back often: the first time tells all there is to tell.
  #report(attempt: Attempt, kind: 'retry' | 'defer', fields: object): void {
    const { logger } = this.#parts
    if (kind === 'retry') logger.warn(fields, 'attempt failed, will retry')
    else if (this.#patience.meet(attempt.id)) logger.warn(fields, 'event deferred, not counted')
    else logger.debug(fields, 'event deferred again, not counted')
  }

  /** The outcome that buries the event of an attempt, with what is to be told of that. Never rejects. */
  async buried(attempt: Attempt, error: Error): Promise<Outcome> {
    const { logger, emission, registrations } = this.#parts
    logger.error({ ...attempt.logFields, ...errFields(error) }, 'event buried as a dead letter')
    const session = new EmitSession(emission, () => {})
    const telling = async (): Promise<Following> => {
      await registrations.get(attempt.leased.address)?.buried?.(attempt, session, error)
      await session.seal()
      return session
    }
    const renewing = async (): Promise<readonly PayloadRecord[]> => (await attempt.stored?.renew(0)) ?? []
    const { append, put } = await this.#orElse(NOTHING, telling, attempt, 'the burial is told to nobody')
    const renewed = await this.#orElse([], renewing, attempt, NOT_RENEWED)
    return buried(attempt, error, { append, put: [...put, ...renewed] })
  }

  /** What belongs to an outcome and may be up to a store of the user's own: the outcome does not wait for it for ever. */
  async #orElse<R>(fallback: R, work: () => Promise<R>, attempt: Attempt, message: string): Promise<R> {
    const { clock, logger, settings } = this.#parts
    try {
      return await answeredWithin(clock, settings.hardDeadlineMs, work)
    } catch (thrown) {
      logger.error({ ...attempt.logFields, ...errFields(thrown) }, message)
      return fallback
    }
  }

  #tooLate(attempt: Attempt, error: unknown): void {
    const fields = { ...attempt.logFields, ...errFields(error) }
    this.#parts.logger.warn(fields, 'emitted too late, after its attempt had ended')
  }
}

// An attempt is counted when it is leased: one that killed its process left no other trace.
function refuseExhausted({ number }: Attempt, { retry }: Registration): void {
  if (number <= retry.maxAttempts) return
  throw new PermanentError(
    `all ${retry.maxAttempts} attempts ended without a report: the process died or hung while handling this event`,
  )
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch (cause) {
    // V8's message quotes the text, which is the payload.
    throw new PermanentError('the stored event is not JSON', { cause: new Error((cause as Error).name) })
  }
}

async function checked(attempt: Attempt, schema: StandardSchemaV1): Promise<void> {
  attempt.payload = await validate(attempt.type, schema, attempt.payload)
}
