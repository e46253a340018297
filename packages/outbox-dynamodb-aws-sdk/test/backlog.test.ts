import { BatchWriteCommand } from '@aws-sdk/lib-dynamodb'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { parallel } from '../src/parallel.ts'
import { event, type Opened, opened, outcome } from './opened.ts'

const BATCH = 25

/** Puts items beside the outbox, as many at once as DynamoDB takes. */
async function fill({ client, tables }: Opened, items: readonly Record<string, unknown>[]): Promise<void> {
  const batches = Array.from({ length: items.length / BATCH }, (_, n) =>
    items.slice(n * BATCH, (n + 1) * BATCH),
  )
  await parallel(batches, (batch) =>
    client.send(
      new BatchWriteCommand({
        RequestItems: { [tables.events]: batch.map((Item) => ({ PutRequest: { Item } })) },
      }),
    ),
  )
}

/** Events that are no worker's business now: leased, put off, done and dead, in equal numbers. */
function others(count: number): Record<string, unknown>[] {
  const now = Date.now()
  const common = { type: 'a', body: '{}', headers: '{}', created: now, attempt: 1, uncounted: 0 }
  return Array.from({ length: count }, (_, n) => ({
    ...common,
    id: `other-${n}`,
    ...[
      { state: 'leased', visible: now + 600_000, due_shard: '0' },
      { state: 'waiting', visible: now + 600_000, due_shard: '0' },
      { state: 'done', visible: now, closed: 'done-0', closed_at: now + 600_000 },
      { state: 'dead', visible: now, closed: 'dead', closed_at: now, error: 'x' },
    ][n % 4],
  }))
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, with many events', () => {
  test('a lease reads what it takes, however many others there are and however long the backlog is', async () => {
    const place = await opened({ shards: 1 })
    const { storage } = place.outbox
    let read = 0
    place.client.middlewareStack.add(
      (next, { commandName }) =>
        async (args) => {
          const input = { ...args.input, ReturnConsumedCapacity: 'TOTAL' } as never
          const result = await next({ ...args, input })
          const { ConsumedCapacity } = result.output as { ConsumedCapacity?: { CapacityUnits?: number } }
          if (commandName === 'QueryCommand') read += ConsumedCapacity?.CapacityUnits ?? 0
          return result
        },
      { step: 'initialize', priority: 'high' },
    )
    const lease = async () => {
      await storage.write([
        outcome({ append: Array.from({ length: 50 }, (_, n) => event(`due-${read}-${n}`)) }),
      ])
      read = 0
      const requests = await place.during(async () =>
        expect(await storage.lease(50, 600_000)).toHaveLength(50),
      )
      return { requests: requests.length, read }
    }
    const alone = await lease()
    expect(alone.requests).toBe(51)
    await fill(place, others(2_000))
    expect(await lease()).toEqual(alone)
    const now = Date.now()
    const backlog = others(500).map(({ id, ...item }) => {
      const { closed, closed_at, ...open } = { closed: '', closed_at: 0, ...item }
      return { ...open, id: `backlog-${id}`, state: 'waiting', visible: now - 600_000, due_shard: '0' }
    })
    await fill(place, backlog)
    expect(await lease()).toEqual(alone)
  }, 120_000)
})
