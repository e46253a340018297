import { DeleteCommand, type DeleteCommandInput } from '@aws-sdk/lib-dynamodb'
import { type DocumentClient, send } from './client.ts'
import type { Closed } from './closed.ts'
import { failedCondition } from './errors.ts'
import { parallel } from './parallel.ts'
import { isPart } from './payload-items.ts'
import { watchRepeats } from './repeats.ts'
import type { Tables } from './schema.ts'

/** Deletes what has had its time, each item only if that is still so. */
export class Purge {
  readonly #client: DocumentClient
  readonly #tables: Tables
  readonly #closed: Closed
  /** The last item that was looked at, when there are more. */
  #after: string | undefined

  constructor(client: DocumentClient, tables: Tables, closed: Closed) {
    this.#client = client
    this.#tables = tables
    this.#closed = closed
  }

  /** Finished events past their retention; returns how many. */
  async events(now: number, limit: number): Promise<number> {
    const ids = await this.#closed.done(now, limit)
    const deleted = await this.#delete(ids, {
      TableName: this.#tables.events,
      ConditionExpression: '#state = :done AND closed_at <= :now',
      ExpressionAttributeNames: { '#state': 'state' },
      ExpressionAttributeValues: { ':done': 'done', ':now': now },
    })
    return deleted.length
  }

  /**
   * Expired payloads with all their parts; returns how many payloads. Reads the table once from where the last call ended,
   * and from the start after the end.
   */
  async payloads(now: number, limit: number): Promise<number> {
    let payloads = 0
    let restarts = this.#after === undefined ? 0 : 1
    for (;;) {
      const { ids, next } = await this.#closed.expired(now, this.#after)
      const taken = upTo(limit - payloads, ids)
      const deleted = await this.#delete(taken, {
        TableName: this.#tables.payloads,
        ConditionExpression: 'expires_ms <= :now',
        ExpressionAttributeValues: { ':now': now },
      })
      payloads += deleted.filter((id) => !isPart(id)).length
      this.#after = taken.length < ids.length ? (taken.at(-1) ?? this.#after) : next
      if (payloads === limit) return payloads
      if (this.#after === undefined && restarts-- === 0) return payloads
    }
  }

  /** Deletes the items that the condition holds for; returns their ids. */
  async #delete(ids: readonly string[], where: Omit<DeleteCommandInput, 'Key'>): Promise<readonly string[]> {
    const deleted = await parallel(ids, (id) => this.#deleteOne({ ...where, Key: { id } }))
    return ids.filter((_, index) => deleted[index])
  }

  /** Whether it was this that deleted the item, be it that the driver sent it twice. */
  async #deleteOne(input: DeleteCommandInput): Promise<boolean> {
    const command = new DeleteCommand({ ...input, ReturnValuesOnConditionCheckFailure: 'ALL_OLD' })
    const isUnanswered = watchRepeats(command)
    try {
      await send(this.#client, command)
      return true
    } catch (error) {
      const found = failedCondition(error)
      if (!found) throw error
      return isUnanswered() && found['id'] === undefined
    }
  }
}

/** The first of these items that hold so many payloads, and the parts between them. */
function upTo(payloads: number, ids: readonly string[]): readonly string[] {
  let left = payloads
  const end = ids.findIndex((id) => !isPart(id) && left-- === 0)
  return end === -1 ? ids : ids.slice(0, end)
}
