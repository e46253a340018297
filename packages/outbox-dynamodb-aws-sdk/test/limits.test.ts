import { CreateTableCommand, DeleteTableCommand, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb'
import { GetCommand, NumberValue, PutCommand, ScanCommand } from '@aws-sdk/lib-dynamodb'
import {
  ConfigurationError,
  EventTooLargeError,
  PayloadTooLargeError,
  TransactionTooLargeError,
} from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import type { DynamoDBTransaction } from '../src/index.ts'
import { ITEM_BYTES, itemBytes } from '../src/item-size.ts'
import {
  cleanups,
  completing,
  event,
  eventItems,
  type Opened,
  opened,
  outcome,
  payload,
  tableNames,
} from './opened.ts'

const MIB = 1024 * 1024

/** The commands that are sent while a transaction is refused, and its error. */
async function refused(
  { outbox, during }: Opened,
  fill: (tx: DynamoDBTransaction) => unknown,
): Promise<{ commands: string[]; error: unknown }> {
  let error: unknown
  const commands = await during(async () => {
    error = await outbox.transaction(async (tx) => void (await fill(tx))).catch((thrown) => thrown)
  })
  return { commands, error }
}

/** A table of the user's own whose key has two attributes. */
async function linesTable({ client }: Opened): Promise<string> {
  const { events: TableName } = tableNames()
  await client.send(
    new CreateTableCommand({
      TableName,
      BillingMode: 'PAY_PER_REQUEST',
      KeySchema: [
        { AttributeName: 'order', KeyType: 'HASH' },
        { AttributeName: 'line', KeyType: 'RANGE' },
      ],
      AttributeDefinitions: [
        { AttributeName: 'order', AttributeType: 'B' },
        { AttributeName: 'line', AttributeType: 'N' },
      ],
    }),
  )
  cleanups.push(() => client.send(new DeleteTableCommand({ TableName })))
  return TableName
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, up to its limits', () => {
  test.each([
    [{}],
    [{ é: 'é😀', empty: '', yes: true, nothing: null, bytes: Uint8Array.of(1, 2, 3) }],
    [{ n: 0, o: 1, p: 12, q: 123, r: 100, s: 12_345, t: 1_732_500_000_000, u: 1_732_512_345_678 }],
    [{ n: -1, o: -123.45, p: 1.5, q: 100.5, r: 0.001, s: 1e-7, t: 120_000, u: 1e15 }],
    [{ n: 12n, o: NumberValue.from('12345678901234567890.5') }],
    [{ list: ['a', 1, [['b']], {}], map: { x: 'y', z: { w: 100 } }, none: [], nil: {} }],
    [{ texts: new Set(['a', 'bc']), numbers: new Set([1, 22]) }],
  ])('an item is as large as DynamoDB says: case %#', async (given) => {
    const { client, tables } = await opened()
    const item = { id: 'x', ...given, pad: '' }
    const pad = ITEM_BYTES - itemBytes(item)
    const put = (length: number) =>
      client.send(new PutCommand({ TableName: tables.payloads, Item: { ...item, pad: 'x'.repeat(length) } }))
    await put(pad)
    await expect(put(pad + 1)).rejects.toThrow(/size/i)
  })

  test('the largest payload of one item is taken under the longest id, one byte more is refused with advice', async () => {
    const { outbox, during } = await opened()
    const limit = outbox.storage.limits.payloadBytes
    const store = outbox.sagaStore('1h', { compression: 'none' })
    const id = 'x'.repeat(128)
    const frame = 13
    const farthest = new Date(Date.UTC(9999, 11, 31))
    await store.put(id, new Uint8Array(limit - frame), farthest)
    const tooLarge = async () => {
      const refusal = store.put(id, new Uint8Array(limit - frame + 1))
      await expect(refusal).rejects.toMatchObject({ limit, actual: limit + 1 })
      await expect(refusal).rejects.toThrow(/chunkPayloads: true/)
    }
    expect(await during(tooLarge)).toEqual([])
    expect(ITEM_BYTES - limit).toBeLessThan(300)
  })

  test('an event whose headers leave it no room is refused before it is sent; the largest one can be buried', async () => {
    const { client, tables, outbox, during } = await opened({ maxEventBytes: 380 * 1024 })
    const { storage } = outbox
    const id = 'x'.repeat(255)
    const sized = (length: number) =>
      event(id, { body: JSON.stringify('x'.repeat(length)), headers: { note: '\u0001'.repeat(8_000) } })
    const error = await storage
      .write([outcome({ append: [sized(389_000)] })])
      .catch((thrown: EventTooLargeError) => thrown)
    expect(error).toBeInstanceOf(EventTooLargeError)
    const { limit, actual } = error as EventTooLargeError
    const largest = sized(389_000 - (actual - limit))
    const tooLarge = sized(389_000 - (actual - limit) + 1)
    const refusal = () => expect(storage.write([outcome({ append: [tooLarge] })])).rejects.toThrow(/a claim/)
    expect(await during(refusal)).toEqual([])
    await storage.write([outcome({ append: [largest] })])
    const [leased] = await takeDue(storage, 1, 60_000)
    const bury = { kind: 'bury', id, attempt: leased?.attempt ?? 0, error: '€'.repeat(1_200) } as const
    expect(await storage.write([outcome({ settle: bury })])).toEqual([{ status: 'applied' }])
    const Items = await eventItems(client, tables)
    expect(itemBytes(Items[0] ?? {})).toBeGreaterThan(400_000)
  })

  test('100 items fit into a transaction, 101 are refused before anything is sent', async () => {
    const place = await opened()
    const emitting = (count: number) => async () => {
      for (let n = 0; n < count; n++) await place.bus.emit('a', {})
    }
    const { commands, error } = await refused(place, emitting(101))
    expect(commands).toEqual([])
    expect(error).toBeInstanceOf(TransactionTooLargeError)
    expect(error).toMatchObject({ limit: 100, actual: 101 })
    const tx = place.outbox.begin()
    const enlisted = place.outbox.enlist(tx, emitting(101))
    await enlisted
    expect(() => tx.items).toThrow(TransactionTooLargeError)
    await place.outbox.transaction(emitting(100))
    expect(await place.outbox.stats()).toMatchObject({ due: 100 })
  })

  test('4 MB fit into a transaction, puts and updates alike; one byte more is refused before anything is sent', async () => {
    const place = await opened()
    const { payloads: TableName } = place.tables
    const filled = (bytes: number) => (tx: DynamoDBTransaction) => {
      for (let n = 0; n < 10; n++) {
        const size = n < 9 ? 400_000 : bytes - 9 * 400_000 - 200_000
        tx.put({
          TableName,
          Item: { id: `put-${n}`, d: 'x'.repeat(size - itemBytes({ id: 'put-0', d: '' })) },
        })
      }
      const own = itemBytes({ id: 'update', ':d': '' })
      tx.update({
        TableName,
        Key: { id: 'update' },
        UpdateExpression: 'SET d = :d',
        ExpressionAttributeValues: { ':d': 'x'.repeat(200_000 - own) },
      })
    }
    const { commands, error } = await refused(place, filled(4 * MIB + 1))
    expect(commands).toEqual([])
    expect(error).toMatchObject({ limit: 4 * MIB, actual: 4 * MIB + 1 })
    const puts = (bytes: number) => (tx: DynamoDBTransaction) => {
      for (let n = 0; n < 11; n++) {
        const size = n < 10 ? 400_000 : bytes - 10 * 400_000
        const id = `put-${String(n).padStart(2, '0')}`
        tx.put({ TableName, Item: { id, d: 'x'.repeat(size - itemBytes({ id, d: '' })) } })
      }
    }
    expect((await refused(place, puts(4 * MIB + 1))).commands).toEqual([])
    expect(await refused(place, puts(4 * MIB))).toEqual({
      commands: ['TransactWriteCommand'],
      error: undefined,
    })
  })

  test('the same item twice is refused before anything is written, whatever is done to it', async () => {
    const place = await opened()
    const TableName = await linesTable(place)
    const key = (line: number | bigint | NumberValue) => ({ order: Buffer.of(1), line })
    const condition = { UpdateExpression: 'SET a = :a', ExpressionAttributeValues: { ':a': 1 } }
    const pairs: ((tx: DynamoDBTransaction) => void)[] = [
      (tx) => tx.put({ TableName, Item: { ...key(1), a: 1 } }).put({ TableName, Item: { a: 2, ...key(1) } }),
      (tx) => tx.put({ TableName, Item: key(1) }).delete({ TableName, Key: key(1) }),
      (tx) => tx.update({ TableName, Key: key(1), ...condition }).put({ TableName, Item: key(1) }),
      (tx) =>
        tx
          .delete({ TableName, Key: key(2) })
          .delete({ TableName, Key: { line: 2n, order: Uint8Array.of(1) } }),
      (tx) => tx.delete({ TableName, Key: key(3) }).delete({ TableName, Key: key(NumberValue.from('3')) }),
    ]
    for (const pair of pairs) {
      const { commands, error } = await refused(place, pair)
      expect(error).toMatchObject({ code: 'OUTBOX_STORAGE', transient: false, blame: 'event' })
      expect(String(error)).toMatch(/items 1 and 2 of the transaction are the same item/)
      expect(commands.filter((command) => command !== 'DescribeTableCommand')).toEqual([])
    }
    const different = await refused(place, (tx) => {
      for (let line = 0; line < 5; line++) tx.put({ TableName, Item: key(line) })
      tx.put({ TableName, Item: { ...key(0), order: Buffer.of(2) } })
    })
    // The table is described once.
    expect(different).toEqual({ commands: ['TransactWriteCommand'], error: undefined })
  })

  test('a table that may not be described is left to DynamoDB, which refuses the same item as well', async () => {
    const place = await opened()
    const TableName = await linesTable(place)
    const item = { order: Buffer.of(1), line: 1 }
    place.fail('DescribeTableCommand', Object.assign(new Error('denied'), { name: 'AccessDeniedException' }))
    const { commands, error } = await refused(place, (tx) =>
      tx.put({ TableName, Item: item }).put({ TableName, Item: item }),
    )
    expect(commands).toEqual(['DescribeTableCommand', 'TransactWriteCommand'])
    expect(error).toMatchObject({ code: 'OUTBOX_STORAGE', transient: false, blame: 'event' })
  })

  test('chunks spread a payload over items of one transaction, and are read and removed together', async () => {
    const { client, tables, outbox, during } = await opened({ chunkPayloads: true })
    const store = outbox.sagaStore('1h', { compression: 'none' })
    const large = Uint8Array.from({ length: 3_000_000 }, (_, index) => (index * 31) % 251)
    expect(await during(() => store.put('claim', large))).toEqual(['TransactWriteCommand'])
    const { Count } = await client.send(new ScanCommand({ TableName: tables.payloads, Select: 'COUNT' }))
    expect(Count).toBeGreaterThan(1)
    expect(Buffer.from((await store.get('claim')) ?? []).equals(Buffer.from(large))).toBe(true)
    await store.delete('claim')
    expect(await store.get('claim')).toBeUndefined()
    const { Items } = await client.send(new ScanCommand({ TableName: tables.payloads }))
    expect(Items).toEqual([])
    await expect(store.put('claim', new Uint8Array(4_100_000))).rejects.toThrow(PayloadTooLargeError)
  })

  test('a step takes the largest chunked payload out, and puts another such in, in one write', async () => {
    const { client, tables, outbox } = await opened({ chunkPayloads: true })
    const { storage } = outbox
    const data = new Uint8Array(storage.limits.payloadBytes)
    const first = { append: [event('first', { body: JSON.stringify('x'.repeat(10_000)) })] }
    expect(await storage.write([outcome({ ...first, put: [payload('old', data)] })])).toEqual([
      { status: 'applied' },
    ])
    const [leased = { id: '', attempt: 0 }] = await takeDue(storage, 1, 60_000)
    const step = completing(leased, { append: [event('next')], put: [payload('new', data)], remove: ['old'] })
    expect(await storage.write([step])).toEqual([{ status: 'applied' }])
    const part = (id: string) => client.send(new GetCommand({ TableName: tables.payloads, Key: { id } }))
    for (const id of ['old', 'old#1', 'old#10']) expect((await part(id)).Item).toBeUndefined()
    expect(await storage.getPayload('new')).toHaveLength(data.byteLength)
  })

  test('cleanup removes every part of what has expired, and counts payloads', async () => {
    const { client, tables, outbox } = await opened({ chunkPayloads: true })
    const { storage } = outbox
    const TimeToLiveSpecification = { Enabled: false, AttributeName: 'expires_at' }
    await client.send(new UpdateTimeToLiveCommand({ TableName: tables.payloads, TimeToLiveSpecification }))
    for (const id of ['a', 'b', 'c']) {
      await storage.write([outcome({ put: [payload(id, new Uint8Array(1_500_000), 1)] })])
    }
    await storage.write([outcome({ put: [payload('live', new Uint8Array(1_000_000))] })])
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await storage.purge(2)).toEqual({ events: 0, payloads: 2 })
    expect(await outbox.sagaStore('1h').cleanup()).toBe(1)
    const { Items = [] } = await client.send(
      new ScanCommand({ TableName: tables.payloads, ProjectionExpression: 'id' }),
    )
    expect(Items.map(({ id }) => id).toSorted()).toEqual(['live', 'live#1', 'live#2'])
  })

  test('options beyond what DynamoDB takes are refused', async () => {
    const { client } = await opened()
    const { DynamoDBAwsSdkOutbox } = await import('../src/index.ts')
    for (const options of [
      { tables: { events: 'a b' } },
      { tables: { payloads: 'ab' } },
      { shards: 0 },
      { shards: 1.5 },
      { maxEventBytes: 400 * 1024 },
    ]) {
      expect(() => new DynamoDBAwsSdkOutbox(client, options)).toThrow(ConfigurationError)
    }
  })
})
