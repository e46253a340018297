import type { StandardSchemaV1 } from '@standard-schema/spec'
import { DuplicateEventError } from '../errors.ts'
import type { MiddlewareChain } from '../middleware.ts'
import type { Outbox } from '../outbox.ts'
import type { NewEvent, Outcome } from '../storage.ts'
import type { EventDraft } from './event.ts'
import { validate } from './schema.ts'
import type { TransactionContext } from './transaction-context.ts'

/** An event's way in: middleware, schema, size, then the write that stores it with its payload. */
export class Emission {
  readonly #outbox: Outbox
  readonly #middleware: MiddlewareChain
  readonly #schemas: ReadonlyMap<string, StandardSchemaV1>

  constructor(outbox: Outbox, middleware: MiddlewareChain, schemas: ReadonlyMap<string, StandardSchemaV1>) {
    this.#outbox = outbox
    this.#middleware = middleware
    this.#schemas = schemas
  }

  /** What has to be written for a draft. */
  async prepare(draft: EventDraft): Promise<Outcome & { readonly append: readonly [NewEvent] }> {
    await this.#middleware.emit(draft, async () => {
      const schema = this.#schemas.get(draft.type)
      if (schema) await validate(draft.type, schema, draft.payload)
    })
    return draft.outcome(this.#outbox.maxEventBytes)
  }

  /** Stores drafts, all or none, in `context` or in a transaction of their own. */
  async store(
    drafts: readonly EventDraft[],
    context: TransactionContext<unknown> | undefined,
  ): Promise<void> {
    const generated: Outcome[] = []
    const named = new Map<string, Outcome & { readonly append: readonly [NewEvent] }>()
    for (const draft of drafts) {
      const outcome = await this.prepare(draft)
      const [event] = outcome.append
      if (event.fingerprint === null) {
        generated.push(outcome)
        continue
      }
      assertSame(event, named.get(event.id)?.append[0].fingerprint)
      named.set(event.id, outcome)
    }
    const outcomes = [...(generated.length > 0 ? [merged(generated)] : []), ...named.values()]
    if (outcomes.length > 1 && !context) {
      // One of several may turn out to be another event's id: only a transaction takes the others back.
      await this.#outbox.transaction(() =>
        this.#outbox.participate(undefined, (own) => this.#write(outcomes, own)),
      )
    } else if (outcomes.length > 0) {
      await this.#write(outcomes, context)
    }
  }

  async #write(
    outcomes: readonly Outcome[],
    context: TransactionContext<unknown> | undefined,
  ): Promise<void> {
    const results = await this.#outbox.write(outcomes, context)
    for (const [index, result] of results.entries()) {
      const event = outcomes[index]?.append[0]
      if (event && result.status === 'duplicate') assertSame(event, result.fingerprint)
    }
  }
}

function assertSame(event: NewEvent, other: string | null | undefined): void {
  if (other !== undefined && other !== event.fingerprint) throw new DuplicateEventError(event.id)
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
