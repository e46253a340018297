import { UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import type { Lease } from 'outbox-core'
import { type Attributes, attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'
import { failedCondition, ifConditionHolds } from './errors.ts'
import type { EventItem } from './items.ts'
import { attempted, parallel } from './parallel.ts'
import type { DueEvent, Queries } from './queries.ts'
import { newMark } from './repeats.ts'
import type { Tables } from './schema.ts'

/** Takes events and keeps them, each by an update on a condition of its own. */
export class Leases {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #queries: Queries

  constructor(client: DocumentClient, tables: Tables, queries: Queries) {
    this.#client = client
    this.#table = tables.events
    this.#queries = queries
  }

  /**
   * Takes the oldest due events. Every worker tries for the same ones, so who comes too late takes those that follow.
   * What could be taken is handed out even if another failed: to lose it would cost it an attempt.
   */
  async take(now: number, limit: number, until: number): Promise<readonly EventItem[]> {
    const due = await this.#queries.due(now, limit)
    const taken: EventItem[] = []
    for (let next = 0; next < due.length && taken.length < limit; ) {
      const tried = due.slice(next, next + limit - taken.length)
      next += tried.length
      const attempts = await attempted(tried, (event) => this.#takeOne(event, until))
      taken.push(...attempts.flatMap((one) => (one.status === 'fulfilled' && one.value) || []))
      const failed = attempts.find(({ status }) => status === 'rejected')
      if (failed?.status !== 'rejected') continue
      if (taken.length === 0) throw failed.reason
      break
    }
    return taken
  }

  /** Makes leases last until then; says of each whether it was still held. */
  extend(leases: readonly Lease[], until: number): Promise<readonly boolean[]> {
    return parallel(leases, async ({ id, attempt }) => {
      const request = new UpdateItemCommand({
        TableName: this.#table,
        Key: attributes({ id }),
        UpdateExpression: 'SET visible = :until',
        ConditionExpression: '#state = :leased AND attempt = :attempt',
        ExpressionAttributeNames: { '#state': 'state' },
        ExpressionAttributeValues: attributes({ ':until': until, ':leased': 'leased', ':attempt': attempt }),
      })
      return (await ifConditionHolds(send(this.#client, request).then(() => true))) ?? false
    })
  }

  /** Moves the end of a completed event's retention; nothing happens to any other. */
  async keep(id: string, until: number): Promise<void> {
    const request = new UpdateItemCommand({
      TableName: this.#table,
      Key: attributes({ id }),
      UpdateExpression: 'SET closed_at = :until',
      ConditionExpression: '#state = :done',
      ExpressionAttributeNames: { '#state': 'state' },
      ExpressionAttributeValues: attributes({ ':until': until, ':done': 'done' }),
    })
    await ifConditionHolds(send(this.#client, request))
  }

  /**
   * Undefined when someone else has taken or settled the event since the index was read. When it was this very request,
   * sent by the driver before, the event is ours.
   */
  async #takeOne({ id, visible }: DueEvent, until: number): Promise<EventItem | undefined> {
    const mark = newMark()
    const request = new UpdateItemCommand({
      TableName: this.#table,
      Key: attributes({ id }),
      UpdateExpression:
        'SET #state = :leased, visible = :until, attempt = attempt + :one, lease_mark = :mark',
      ConditionExpression: 'visible = :visible AND attribute_exists(due_shard)',
      ExpressionAttributeNames: { '#state': 'state' },
      ExpressionAttributeValues: attributes({
        ':leased': 'leased',
        ':until': until,
        ':one': 1,
        ':visible': visible,
        ':mark': mark,
      }),
      ReturnValues: 'ALL_NEW',
      ReturnValuesOnConditionCheckFailure: 'ALL_OLD',
    })
    try {
      const answer = await send<{ Attributes: Attributes }>(this.#client, request)
      return plain<EventItem>(answer.Attributes)
    } catch (error) {
      const found = failedCondition(error)
      if (!found) throw error
      const event = plain<Partial<EventItem>>(found)
      // A version that knows no marks leaves one that is no longer true.
      return event.lease_mark === mark && event.visible === until ? (event as EventItem) : undefined
    }
  }
}
