import { DeleteCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb'
import type { Outcome, OutcomeResult, Settlement } from 'outbox-core'
import { type Attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'
import { dynamoWriteError, failedCondition } from './errors.ts'
import { type EventItem, type EventItems, needsStored } from './event-items.ts'
import { readItem } from './read-item.ts'
import { newMark, watchRepeats } from './repeats.ts'
import type { Tables } from './schema.ts'

const APPLIED: OutcomeResult = { status: 'applied' }
const LOST: OutcomeResult = { status: 'lost' }

/** What an outcome has been sent as. */
interface Sent {
  readonly mark: string
  mayBeApplied: boolean
}

/**
 * Applies outcomes that do nothing but settle and leave every key as it is, for half the write units of a transaction. One
 * that is sent again, by the driver or by core, finds itself applied: by its mark where the event is still there, and where
 * it is gone by having been sent before.
 */
export class Settling {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #items: EventItems
  readonly #sent = new WeakMap<Outcome, Sent>()

  constructor(client: DocumentClient, tables: Tables, items: EventItems) {
    this.#client = client
    this.#table = tables.events
    this.#items = items
  }

  /** @throws StorageError, UnknownOutcomeError */
  async apply(outcome: Outcome, settle: Settlement): Promise<OutcomeResult> {
    const sent = this.#sent.get(outcome) ?? { mark: newMark(), mayBeApplied: false }
    this.#sent.set(outcome, sent)
    const stored = needsStored(settle)
      ? await readItem<EventItem>(this.#client, this.#table, settle.id)
      : undefined
    const { Update, Delete } = this.#items.settleAlone(settle, sent.mark, stored)
    const command = Update ? new UpdateCommand(Update as never) : new DeleteCommand(Delete as never)
    const isUnanswered = watchRepeats(command)
    try {
      await send(this.#client, command)
      return APPLIED
    } catch (error) {
      sent.mayBeApplied ||= isUnanswered()
      const found = failedCondition(error)
      if (!found) throw dynamoWriteError(error)
      return isApplied(found, sent) ? APPLIED : LOST
    }
  }
}

/** Whether what is there shows that it was applied before. A lease that went to another leaves an event of another mark. */
function isApplied(found: Attributes, { mark, mayBeApplied }: Sent): boolean {
  const { id, settle_mark } = plain<Partial<EventItem>>(found)
  return id === undefined ? mayBeApplied : settle_mark === mark
}
