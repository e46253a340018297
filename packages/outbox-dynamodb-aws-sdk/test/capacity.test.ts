import { OutboxEventBus, type Outcome, type Settlement } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import type { TransactItem } from '../src/index.ts'
import { completing, event, lease, type Opened, opened, outcome, payload } from './opened.ts'

interface Consumed {
  readonly Table?: { readonly CapacityUnits?: number }
  readonly GlobalSecondaryIndexes?: Readonly<Record<string, { readonly CapacityUnits?: number }>>
}

/** Adds up what DynamoDB says that writes consume, by table and index. */
async function metered() {
  const place = await opened({ shards: 1 })
  let units: Record<string, number> = {}
  const add = (name: string, count = 0): void => {
    if (count > 0) units[name] = (units[name] ?? 0) + count
  }
  place.client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next({
        ...args,
        input: { ...args.input, ReturnConsumedCapacity: 'INDEXES' } as never,
      })
      const { ConsumedCapacity = [] } = result.output as { ConsumedCapacity?: Consumed | Consumed[] }
      for (const { Table, GlobalSecondaryIndexes = {} } of [ConsumedCapacity].flat()) {
        add('table', Table?.CapacityUnits)
        for (const [name, { CapacityUnits }] of Object.entries(GlobalSecondaryIndexes))
          add(name, CapacityUnits)
      }
      return result
    },
    { step: 'initialize', priority: 'high' },
  )
  return {
    ...place,
    async unitsOf(work: () => Promise<unknown>): Promise<Record<string, number>> {
      units = {}
      await work()
      return units
    },
  }
}

/**
 * What the items of a transaction consume, up to a kilobyte each: 2 of the table, and 2 of an index that they are put into
 * or leave. DynamoDB Local says what one item of each table consumes, whatever is in the transaction.
 */
function unitsIn(items: readonly TransactItem[]): Record<string, number> {
  const units: Record<string, number> = {}
  const add = (name: string): void => {
    units[name] = (units[name] ?? 0) + 2
  }
  for (const { Put, Update, Delete } of items) {
    add('table')
    const { id = '' } = Put?.Item ?? Update?.Key ?? Delete?.Key ?? {}
    if (Put?.Item?.['due_shard'] || Update?.ExpressionAttributeValues?.[':shard']) add('due')
    if (Delete?.ConditionExpression?.includes('attempt')) add('due')
    if (Put?.Item?.['closed'] || (Delete && /^outbox place /.test(id))) add('closed')
  }
  return units
}

async function leased({ outbox: { storage } }: Opened, id: string) {
  await storage.write([outcome({ append: [event(id)] })])
  const [held = { id: '', attempt: 0 }] = await takeDue(storage, 1, 60_000)
  return { id: held.id, attempt: held.attempt }
}

// As the README says them: what changes here, changes what users pay.
describe.skipIf(serverUrl() === undefined)('DynamoDB, write units', () => {
  test('of the life of an event: emitted 4, leased 3, completed 2', async () => {
    const place = await metered()
    const { outbox, bus, unitsOf } = place
    // The first in a process's life at an address: it is noted.
    expect(await unitsOf(() => bus.emit('a', {}))).toEqual({ table: 3, due: 2, closed: 1 })
    expect(await unitsOf(() => bus.emit('a', {}))).toEqual({ table: 2, due: 2 })
    // Half a unit is for reading the index.
    expect(await unitsOf(() => lease(place, 1))).toEqual({ table: 1, due: 2.5 })
    const held = await leased(place, 'b')
    expect(await unitsOf(() => outbox.storage.write([completing(held)]))).toEqual({ table: 1, due: 1 })
    const large = { text: 'x'.repeat(4_000) }
    expect(await unitsOf(() => bus.emit('a', large))).toEqual({ table: 10, due: 2 })
  })

  test.each<[string, Partial<Settlement>, Record<string, number>]>([
    ['retried', { kind: 'retry', delayMs: 60_000, error: 'x', counted: true }, { table: 1, due: 2 }],
    ['buried', { kind: 'bury', error: 'x' }, { table: 1, due: 1, closed: 1 }],
    ['completed and kept', { kind: 'complete', keepMs: 60_000 }, { table: 1, due: 1, closed: 1 }],
  ])('of an event that is %s', async (_, settle, expected) => {
    const place = await metered()
    const held = await leased(place, 'a')
    const settling = outcome({ settle: { ...held, ...settle } as Settlement })
    expect(await place.unitsOf(() => place.outbox.storage.write([settling]))).toEqual(expected)
  })

  test('of a lease that is extended: 3; a saga step is four items in one transaction', async () => {
    const place = await metered()
    const { storage } = place.outbox
    const held = await leased(place, 'a')
    expect(await place.unitsOf(() => storage.extend([held], 120_000))).toEqual({ table: 1, due: 2 })
    await storage.write([outcome({ put: [payload('old', Buffer.alloc(500))] })])
    const step = completing(held, {
      append: [event('next', { leased: true })],
      put: [payload('new', Buffer.alloc(500))],
      remove: ['old'],
    })
    // DynamoDB Local says what one item of each table consumes, whatever is in the transaction.
    let items: unknown
    place.answer('TransactWriteCommand', ({ TransactItems }, through) => {
      items = TransactItems
      return through()
    })
    await storage.write([step])
    expect(items).toHaveLength(4)
  })

  test('of a payload: 2 for each kilobyte put, and as many removed; nothing is scanned in the background', async () => {
    const { outbox, unitsOf, during } = await metered()
    const { storage } = outbox
    const put = outcome({ put: [payload('claim', Buffer.alloc(3_500), 1)] })
    expect(await unitsOf(() => storage.write([put]))).toEqual({ table: 8 })
    expect(await unitsOf(() => storage.write([outcome({ remove: ['claim'] })]))).toEqual({ table: 8 })
    await storage.write([put])
    const purging = () => storage.purge(1_000, { background: true })
    expect(await during(purging)).toEqual(['GetCommand', 'QueryCommand'])
    expect(await during(() => outbox.sagaStore('1h').cleanup())).toContain('ScanCommand')
    expect(await storage.getPayload('claim')).toBeUndefined()
  })

  test('of an event with a key: alone 15, behind others 23; a step in its place costs what it does without', async () => {
    const place = await metered()
    const { storage } = place.outbox
    const units = async (work: () => Promise<unknown>): Promise<Record<string, number>> => {
      let counted: Record<string, number> = {}
      place.answer('TransactWriteCommand', ({ TransactItems }, through) => {
        counted = unitsIn(TransactItems as TransactItem[])
        return through()
      })
      await work()
      return counted
    }
    const append = (id: string) => () => storage.write([outcome({ append: [event(id, { key: 'k' })] })])
    const settle = async (more: Partial<Outcome> = {}) => {
      const [held] = await lease(place, 1)
      return () => storage.write([completing(held ?? { id: '', attempt: 0 }, more)])
    }
    expect(await units(append('1'))).toEqual({ table: 4, due: 2 })
    expect(await units(append('2'))).toEqual({ table: 6, closed: 2 })
    expect(await units(append('3'))).toEqual({ table: 6, closed: 2 })
    const following = event('next', { key: 'k', inPlace: true })
    const step = { append: [following], put: [payload('new', Buffer.alloc(500))], remove: ['old'] }
    expect(await units(await settle(step))).toEqual({ table: 8, due: 4 })
    expect(await units(await settle())).toEqual({ table: 6, due: 4, closed: 2 })
    expect(await units(await settle())).toEqual({ table: 6, due: 4, closed: 2 })
    expect(await units(await settle())).toEqual({ table: 4, due: 2 })
    for (const id of ['a', 'b', 'c']) await append(id)()
    const [first] = await lease(place, 1)
    const together = completing(first ?? { id: '', attempt: 0 })
    const settling = { ...together.settle, also: ['b'] } as Settlement
    const expected = { table: 10, due: 4, closed: 4 }
    expect(await units(() => storage.write([{ ...together, settle: settling }]))).toEqual(expected)
    expect(await units(await settle())).toEqual({ table: 4, due: 2 })
    // Reads: the key's item, or what is blocked behind.
    const read = async (work: () => Promise<unknown>) =>
      (await place.during(work)).filter((command) => command === 'GetCommand').length
    expect(await read(append('4'))).toBe(1)
    expect(await read(await settle())).toBe(1)
  })

  test('a transaction pays for what is in it, and nothing more', async () => {
    const { outbox, tables, unitsOf } = await metered()
    const bus = new OutboxEventBus(outbox)
    await bus.emit('a', {})
    const work = () =>
      outbox.transaction(async (tx) => {
        tx.put({ TableName: tables.payloads, Item: { id: 'mine' } })
        await bus.emit('a', {})
      })
    expect(await unitsOf(work)).toEqual({ table: 4, due: 2 })
  })
})
