import { UpdateItemCommand } from '@aws-sdk/client-dynamodb'
import type { Lease, LeaseRequest } from 'outbox-core'
import { type Attributes, attributes, plain } from './attributes.ts'
import { type DocumentClient, send } from './client.ts'
import type { Due, DueEvent } from './due.ts'
import { failedCondition, ifConditionHolds } from './errors.ts'
import { addressOf, type EventItem } from './event-items.ts'
import { attempted, parallel } from './parallel.ts'
import { newMark } from './repeats.ts'
import type { Tables } from './schema.ts'

/** Takes events and keeps them, each by an update on a condition of its own. */
export class Leases {
  readonly #client: DocumentClient
  readonly #table: string
  readonly #due: Due

  constructor(client: DocumentClient, tables: Tables, due: Due) {
    this.#client = client
    this.#table = tables.events
    this.#due = due
  }

  /**
   * Takes the oldest due events. Every worker tries for the same ones, so who comes too late takes those that follow.
   * What could be taken is handed out even if another failed: to lose it would cost it an attempt.
   */
  async take(now: number, request: LeaseRequest, until: number): Promise<readonly EventItem[]> {
    let due = await this.#due.oldest(now, request)
    const taken: EventItem[] = []
    while (taken.length < request.limit) {
      const tried = firstOf(due, request, taken)
      if (tried.length === 0) break
      const rest = new Set(due)
      for (const event of tried) rest.delete(event)
      due = [...rest]
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

/** The oldest that a lease has room for beside those that it has taken. */
function firstOf(
  due: readonly DueEvent[],
  { limit, addresses }: LeaseRequest,
  taken: readonly EventItem[],
): readonly DueEvent[] {
  const left = new Map(addresses.map(({ address, limit: share }) => [address, share]))
  const takes = (address: string): boolean => {
    const room = left.get(address) ?? 0
    left.set(address, room - 1)
    return room > 0
  }
  for (const event of taken) takes(addressOf(event))
  return due.filter(({ address }) => takes(address)).slice(0, limit - taken.length)
}
