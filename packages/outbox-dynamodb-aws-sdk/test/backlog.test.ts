import { BatchWriteCommand } from '@aws-sdk/lib-dynamodb'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { parallel } from '../src/parallel.ts'
import { event, lease, type Opened, opened, outcome } from './opened.ts'

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

/** Events of other addresses that are due, and keys at which a leased event holds back another, in equal numbers. */
function elsewhere(count: number): Record<string, unknown>[] {
  const now = Date.now()
  const common = {
    type: 'a',
    body: '{}',
    headers: '{}',
    created: now,
    visible: now,
    attempt: 0,
    uncounted: 0,
  }
  return Array.from({ length: count }, (_, n) => ({
    ...common,
    id: `elsewhere-${n}`,
    ...[
      { state: 'waiting', type: 'b', due_shard: 'b#0', visible: now - 600_000 },
      { state: 'waiting', address: 'a#x', due_shard: 'a#x#0', visible: now - 600_000 },
      { state: 'blocked', key: `key-${n}`, place: 2 },
      {
        ...{ id: `outbox place 2 key-${n - 1}`, event: `elsewhere-${n - 1}`, due_in: 'a#0' },
        ...{ closed: 'blocked-0', closed_at: now },
      },
    ][n % 4],
  }))
}

/** Events that are no worker's business now: leased, put off, done and dead, in equal numbers. */
function others(count: number): Record<string, unknown>[] {
  const now = Date.now()
  const common = { type: 'a', body: '{}', headers: '{}', created: now, attempt: 1, uncounted: 0 }
  return Array.from({ length: count }, (_, n) => ({
    ...common,
    id: `other-${n}`,
    ...[
      { state: 'leased', visible: now + 600_000, due_shard: 'a#0' },
      { state: 'waiting', visible: now + 600_000, due_shard: 'a#0' },
      { state: 'done', visible: now, closed: 'done-0', closed_at: now + 600_000 },
      { state: 'dead', visible: now, closed: 'dead', closed_at: now, error: 'x' },
    ][n % 4],
  }))
}

/** Counts the units that queries read. */
function metered({ client }: Opened): { read: number } {
  const meter = { read: 0 }
  client.middlewareStack.add(
    (next, { commandName }) =>
      async (args) => {
        const input = { ...args.input, ReturnConsumedCapacity: 'TOTAL' } as never
        const result = await next({ ...args, input })
        const { ConsumedCapacity } = result.output as { ConsumedCapacity?: { CapacityUnits?: number } }
        if (commandName === 'QueryCommand') meter.read += ConsumedCapacity?.CapacityUnits ?? 0
        return result
      },
    { step: 'initialize', priority: 'high' },
  )
  return meter
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, with many events', () => {
  test('a lease reads what it takes, however many others there are and however long the backlog is', async () => {
    const place = await opened({ shards: 1 })
    const { storage } = place.outbox
    const meter = metered(place)
    const leaseAll = async () => {
      await storage.write([
        outcome({ append: Array.from({ length: 50 }, (_, n) => event(`due-${meter.read}-${n}`)) }),
      ])
      meter.read = 0
      const requests = await place.during(async () =>
        expect(await lease(place, 50, 600_000)).toHaveLength(50),
      )
      return { requests: requests.length, read: meter.read }
    }
    const alone = await leaseAll()
    expect(alone.requests).toBe(51)
    await fill(place, others(2_000))
    expect(await leaseAll()).toEqual(alone)
    const now = Date.now()
    const backlog = others(500).map(({ id, ...item }) => {
      const { closed, closed_at, ...open } = { closed: '', closed_at: 0, ...item }
      return { ...open, id: `backlog-${id}`, state: 'waiting', visible: now - 600_000, due_shard: 'a#0' }
    })
    await fill(place, backlog)
    expect(await leaseAll()).toEqual(alone)
    await fill(place, elsewhere(2_000))
    expect(await leaseAll()).toEqual(alone)
  }, 120_000)

  test('to ask what waits costs what there are addresses, not events', async () => {
    const place = await opened({ shards: 2 })
    const meter = metered(place)
    const { storage } = place.outbox
    const types = ['a', 'b', 'c']
    await storage.write([outcome({ append: types.map((type) => event(type, { type })) })])
    const ask = async () => {
      meter.read = 0
      const requests = await place.during(async () => expect(await storage.waiting()).toHaveLength(3))
      return { requests: requests.length, read: meter.read }
    }
    const alone = await ask()
    // The addresses, and each of their partitions.
    expect(alone.requests).toBe(1 + 3 * 2)
    expect(alone.read).toBeLessThanOrEqual(0.5 * 7)
    await fill(place, others(1_000))
    await fill(place, elsewhere(1_000))
    const full = await ask()
    expect(full.requests).toBe(alone.requests)
    expect(full.read).toBeLessThanOrEqual(0.5 * 7)
  }, 120_000)

  test('of many addresses a poll that finds nothing reads half a unit of each partition at most', async () => {
    const place = await opened({ shards: 1 })
    const meter = metered(place)
    const { storage } = place.outbox
    const addresses = Array.from({ length: 100 }, (_, n) => ({ address: `a#${n}`, limit: 4 }))
    const poll = () => storage.lease({ limit: 100, leaseMs: 60_000, addresses })
    expect(await place.during(poll)).toHaveLength(100)
    expect(meter.read).toBeLessThanOrEqual(50)
  })
})
