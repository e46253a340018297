import type { StandardSchemaV1 } from '@standard-schema/spec'
import { DuplicateEventError, StorageError, TransactionMissingError } from '../errors.ts'
import type { MiddlewareChain } from '../middleware.ts'
import type { NewEvent, Outcome } from '../storage.ts'
import { type Draft, fingerprintByKeyOrder } from './event.ts'
import type { OutboxCore } from './outbox-core.ts'
import { validate } from './schema.ts'
import { started, type TransactionContext } from './transaction-context.ts'

/** The write that stores one event. */
export type Emitted = Outcome & { readonly append: readonly [NewEvent] }

/** What is written as a whole; with its draft where its id may be taken. */
interface EmittedWrite {
  readonly draft?: Draft | undefined
  readonly outcome: Outcome
}

const MEETINGS = 3

interface EmissionParts {
  readonly core: OutboxCore
  readonly middleware: MiddlewareChain
  readonly schemas: ReadonlyMap<string, StandardSchemaV1>
  /** Whether events of a type may only be emitted in a transaction. */
  readonly needsTransaction: (type: string) => boolean
}

/** An event's way in: schema, middleware, size, then the write that stores it with its payload. */
export class Emission {
  readonly #core: OutboxCore
  readonly #middleware: MiddlewareChain
  readonly #schemas: ReadonlyMap<string, StandardSchemaV1>
  readonly #needsTransaction: (type: string) => boolean

  constructor({ core, middleware, schemas, needsTransaction }: EmissionParts) {
    this.#core = core
    this.#middleware = middleware
    this.#schemas = schemas
    this.#needsTransaction = needsTransaction
  }

  /**
   * What has to be written for a draft: at once, unless a schema or middleware is asynchronous.
   *
   * @param payload what `emit` was given: the schema checks that, unless middleware has looked at its copy
   */
  prepare(draft: Draft, payload: unknown): Emitted | Promise<Emitted> {
    const { maxEventBytes } = this.#core
    const schema = this.#schemas.get(draft.type)
    const looking = this.#middleware.emit(draft)
    const checking = looking ? checkedAfter(looking, draft, payload, schema) : checked(draft, payload, schema)
    const moving = checking
      ? checking.then(() => this.#middleware.moveOut(draft))
      : this.#middleware.moveOut(draft)
    return moving ? moving.then(() => draft.outcome(maxEventBytes)) : draft.outcome(maxEventBytes)
  }

  /**
   * Stores drafts, all or none, in `context` or in a transaction of their own.
   *
   * @throws TransactionMissingError when one of them has to be in a transaction and there is none
   */
  store(
    drafts: readonly { readonly draft: Draft; readonly payload: unknown }[],
    context: TransactionContext<unknown> | undefined,
  ): Promise<void> {
    for (const { draft } of drafts) if (!context) this.#assertNeedsNone(draft.type)
    const prepared = drafts.map(({ draft, payload }) => this.prepare(draft, payload))
    const all = drafts.map(({ draft }) => draft)
    const isKeyed = all.some(({ key }) => key !== null)
    // Within a key it is the order of the calls that counts, whatever takes longer to prepare.
    const before = isKeyed ? context?.keyed : undefined
    if (isAtOnce(prepared) && !before) return this.#write(all, prepared, context)
    const assertStillThere = context?.mark()
    const writing = settledAll(prepared)
      .finally(() => before)
      .then((outcomes) => {
        assertStillThere?.()
        return this.#write(all, outcomes, context)
      })
    if (isKeyed && context) context.keyed = Promise.allSettled([writing])
    return writing
  }

  #assertNeedsNone(type: string): void {
    if (!this.#needsTransaction(type)) return
    throw new TransactionMissingError(
      `event "${type}" has to be emitted in a transaction (requireTransaction): use outbox.transaction, outbox.enlist or { transaction }`,
    )
  }

  async #write(
    drafts: readonly Draft[],
    outcomes: readonly Emitted[],
    context: TransactionContext<unknown> | undefined,
  ): Promise<void> {
    const [only] = outcomes
    if (outcomes.length === 1 && only?.append[0].fingerprint === null) {
      await this.#core.write(outcomes, context)
      return
    }
    const writes = writesOf(drafts, outcomes)
    if (writes.length > 1 && !context) {
      // One of several may turn out to be another event's id: only a transaction takes the others back.
      await repeatedly(() =>
        this.#core.transaction(() => this.#core.participate(undefined, (own) => this.#writeAll(writes, own))),
      )
    } else if (writes.length > 0) {
      await this.#writeAll(writes, context)
    }
  }

  async #writeAll(
    writes: readonly EmittedWrite[],
    context: TransactionContext<unknown> | undefined,
  ): Promise<void> {
    const results = await this.#core.write(
      writes.map(({ outcome }) => outcome),
      context,
    )
    for (const [index, result] of results.entries()) {
      const { draft, outcome } = writes[index] ?? {}
      const event = outcome?.append[0]
      if (draft && event && result.status === 'duplicate') assertSame(event, draft, result.fingerprint)
    }
  }
}

/** Events of generated ids in one outcome, each other one in an outcome of its own, and each once. */
function writesOf(drafts: readonly Draft[], outcomes: readonly Emitted[]): readonly EmittedWrite[] {
  const named = new Map<string, EmittedWrite & { readonly outcome: Emitted }>()
  const all: EmittedWrite[] = []
  for (const [index, outcome] of outcomes.entries()) {
    const [event] = outcome.append
    const draft = drafts[index] as Draft
    const first = named.get(event.id)
    if (event.fingerprint === null) {
      all.push({ outcome })
    } else if (first) {
      assertSame(event, draft, first.outcome.append[0].fingerprint)
    } else {
      named.set(event.id, { draft, outcome })
      all.push({ draft, outcome })
    }
  }
  // Within a key it is the order of the calls that counts.
  if (named.size > 0 && drafts.some(({ key }) => key !== null)) return all
  const generated = all.filter(({ draft }) => !draft).map(({ outcome }) => outcome)
  return [
    ...(generated.length > 0 ? [{ outcome: merged(generated) }] : []),
    // Transactions that write the same ids in one order wait for each other; in opposite orders they would deadlock.
    ...[...named].toSorted(([one], [other]) => (one < other ? -1 : 1)).map(([, write]) => write),
  ]
}

/** Does what can be done again as if it had not been begun: a transaction of ours that met another one. */
async function repeatedly(work: () => Promise<void>): Promise<void> {
  for (let left = MEETINGS; ; left--) {
    try {
      return await work()
    } catch (error) {
      if (left === 0 || !(error instanceof StorageError && error.transient)) throw error
    }
  }
}

function assertSame(event: NewEvent, draft: Draft, other: string | null | undefined): void {
  if (other === undefined || other === event.fingerprint || other === fingerprintByKeyOrder(draft)) return
  throw new DuplicateEventError(event.id)
}

function merged(outcomes: readonly Outcome[]): Outcome {
  const [first] = outcomes
  if (outcomes.length === 1 && first) return first
  return {
    append: outcomes.flatMap(({ append }) => append),
    put: outcomes.flatMap(({ put }) => put),
    remove: [],
  }
}

/** Asks the schema about what the event will carry. */
function checked(draft: Draft, payload: unknown, schema: StandardSchemaV1 | undefined): void | Promise<void> {
  const seen = draft.settleView()
  if (!schema) return
  const checking = validate(draft.type, schema, seen ? seen.payload : payload)
  if (checking instanceof Promise) return checking.then(() => {})
}

/** The same once asynchronous middleware has looked at it; the caller may have changed `payload` by then. */
function checkedAfter(
  looking: Promise<void>,
  draft: Draft,
  payload: unknown,
  schema: StandardSchemaV1 | undefined,
): Promise<void> {
  const checkedAtCall = schema && started(async () => validate(draft.type, schema, payload))
  checkedAtCall?.catch(() => {})
  return looking.then(async () => {
    const seen = draft.settleView()
    await (seen && schema ? validate(draft.type, schema, seen.payload) : checkedAtCall)
  })
}

function isAtOnce(prepared: readonly (Emitted | Promise<Emitted>)[]): prepared is readonly Emitted[] {
  return !prepared.some((one) => one instanceof Promise)
}

/** All of them, or the first failure once none is under way any more. */
async function settledAll<T>(work: readonly (T | Promise<T>)[]): Promise<T[]> {
  await Promise.allSettled(work)
  return Promise.all(work)
}
