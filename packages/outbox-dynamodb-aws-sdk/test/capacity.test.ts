import { OutboxEventBus, type Settlement } from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { completing, event, type Opened, opened, outcome, payload } from './opened.ts'

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

async function leased({ outbox: { storage } }: Opened, id: string) {
  await storage.write([outcome({ append: [event(id)] })])
  const [lease = { id: '', attempt: 0 }] = await storage.lease(1, 60_000)
  return { id: lease.id, attempt: lease.attempt }
}

// As the README says them: what changes here, changes what users pay.
describe.skipIf(serverUrl() === undefined)('DynamoDB, write units', () => {
  test('of the life of an event: emitted 4, leased 3, completed 2', async () => {
    const place = await metered()
    const { outbox, bus, unitsOf } = place
    expect(await unitsOf(() => bus.emit('a', {}))).toEqual({ table: 2, due: 2 })
    // Half a unit is for reading the index.
    expect(await unitsOf(() => outbox.storage.lease(1, 60_000))).toEqual({ table: 1, due: 2.5 })
    const lease = await leased(place, 'b')
    expect(await unitsOf(() => outbox.storage.write([completing(lease)]))).toEqual({ table: 1, due: 1 })
    const large = { text: 'x'.repeat(4_000) }
    expect(await unitsOf(() => bus.emit('a', large))).toEqual({ table: 10, due: 2 })
  })

  test.each<[string, Partial<Settlement>, Record<string, number>]>([
    ['retried', { kind: 'retry', delayMs: 60_000, error: 'x', counted: true }, { table: 1, due: 2 }],
    ['buried', { kind: 'bury', error: 'x' }, { table: 1, due: 1, closed: 1 }],
    ['completed and kept', { kind: 'complete', keepMs: 60_000 }, { table: 1, due: 1, closed: 1 }],
  ])('of an event that is %s', async (_, settle, expected) => {
    const place = await metered()
    const lease = await leased(place, 'a')
    const settling = outcome({ settle: { ...lease, ...settle } as Settlement })
    expect(await place.unitsOf(() => place.outbox.storage.write([settling]))).toEqual(expected)
  })

  test('of a lease that is extended: 3; a saga step is four items in one transaction', async () => {
    const place = await metered()
    const { storage } = place.outbox
    const lease = await leased(place, 'a')
    expect(await place.unitsOf(() => storage.extend([lease], 120_000))).toEqual({ table: 1, due: 2 })
    await storage.write([outcome({ put: [payload('old', Buffer.alloc(500))] })])
    const step = completing(lease, {
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

  test('a transaction pays for what is in it, and nothing more', async () => {
    const { outbox, tables, unitsOf } = await metered()
    const bus = new OutboxEventBus(outbox)
    const work = () =>
      outbox.transaction(async (tx) => {
        tx.put({ TableName: tables.payloads, Item: { id: 'mine' } })
        await bus.emit('a', {})
      })
    expect(await unitsOf(work)).toEqual({ table: 4, due: 2 })
  })
})
