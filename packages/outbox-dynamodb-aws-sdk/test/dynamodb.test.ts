import { randomUUID } from 'node:crypto'
import { DescribeTimeToLiveCommand, DynamoDBClient, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, GetCommand, ScanCommand } from '@aws-sdk/lib-dynamodb'
import {
  ConfigurationError,
  ForeignTransactionError,
  NotInitializedError,
  OutboxEventBus,
  PayloadTooLargeError,
  StorageError,
  TransactionClosedError,
  TransactionTooLargeError,
  UnsupportedBackendError,
} from 'outbox-core'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import {
  DynamoDBAwsSdkOutbox,
  type DynamoDBAwsSdkOutboxOptions,
  type DynamoDBTransaction,
  eventsTable,
} from '../src/index.ts'
import { itemBytes } from '../src/item-size.ts'

const url = serverUrl()

async function opened(options: DynamoDBAwsSdkOutboxOptions = {}) {
  const credentials = { accessKeyId: 'local', secretAccessKey: 'local' }
  const client = DynamoDBDocumentClient.from(
    new DynamoDBClient({ endpoint: url ?? '', region: 'local', credentials }),
  )
  const requests: string[] = []
  const faults: { name: string; error: object }[] = []
  client.middlewareStack.add(
    (next, context) => async (args) => {
      const command = String(context.commandName).replace(/Items?Command$/, 'Command')
      requests.push(command)
      const fault = faults.findIndex(({ name }) => name === command)
      if (fault !== -1) throw faults.splice(fault, 1)[0]?.error
      return next(args)
    },
    { step: 'initialize' },
  )
  const suffix = randomUUID().replaceAll('-', '').slice(0, 16)
  const tables = { events: `events_${suffix}`, payloads: `payloads_${suffix}` }
  const outbox = new DynamoDBAwsSdkOutbox(client, { tables, logger: false, ...options })
  await outbox.initialize()
  const during = async (work: () => Promise<unknown>): Promise<string[]> => {
    requests.length = 0
    await work()
    return [...requests]
  }
  const fail = (name: string, error: object): void => void faults.push({ name, error })
  return { client, tables, outbox, bus: new OutboxEventBus(outbox), during, fail }
}

const error = (name: string, more: object = {}): Error => Object.assign(new Error(name), { name, ...more })
const canceled = (...codes: string[]): Error =>
  error('TransactionCanceledException', { CancellationReasons: codes.map((Code) => ({ Code })) })

describe.skipIf(url === undefined)('DynamoDB', () => {
  test('requests: emit 1, with a claim 1, settling a saga step 1, an idle poll one for each shard', async () => {
    const { outbox, bus, during } = await opened({ shards: 3 })
    const { storage } = outbox
    expect(await during(() => bus.emit('a', {}))).toEqual(['PutCommand'])
    const [event] = await storage.lease(1, 60_000)
    const step = {
      settle: { kind: 'complete', id: event?.id ?? '', attempt: 1, keepMs: 0 } as const,
      append: [{ id: 'next', type: 'a', body: '{}', headers: {}, due: { inMs: 60_000 }, fingerprint: null }],
      put: [{ id: 'new', data: Uint8Array.of(1), expires: { inMs: 60_000 } }],
      remove: ['old'],
    }
    expect(await during(() => storage.write([step]))).toEqual(['TransactWriteCommand'])
    expect(await during(() => storage.lease(10, 1_000))).toEqual([
      'QueryCommand',
      'QueryCommand',
      'QueryCommand',
    ])
    const tx = await during(() =>
      outbox.transaction(async () => {
        await bus.emit('a', {})
        await outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
      }),
    )
    expect(tx).toEqual(['TransactWriteCommand'])
  })

  test('a payload is a B attribute with a time to live in whole seconds', async () => {
    const { client, tables, outbox } = await opened()
    const expiresAt = new Date(Date.now() + 90_500)
    await outbox.sagaStore('1h').put('claim', Uint8Array.of(1, 2, 3), expiresAt)
    const { Item } = await client.send(new GetCommand({ TableName: tables.payloads, Key: { id: 'claim' } }))
    expect(Item?.['data']).toBeInstanceOf(Uint8Array)
    expect(Item?.['expires_at']).toBe(Math.ceil(expiresAt.getTime() / 1000))
    const ttl = await client.send(new DescribeTimeToLiveCommand({ TableName: tables.payloads }))
    expect(ttl.TimeToLiveDescription).toMatchObject({
      TimeToLiveStatus: 'ENABLED',
      AttributeName: 'expires_at',
    })
  })

  test('initialize repairs a time to live that someone switched off', async () => {
    const { client, tables, outbox } = await opened()
    const TimeToLiveSpecification = { Enabled: false, AttributeName: 'expires_at' }
    await client.send(new UpdateTimeToLiveCommand({ TableName: tables.payloads, TimeToLiveSpecification }))
    await outbox.initialize()
    const ttl = await client.send(new DescribeTimeToLiveCommand({ TableName: tables.payloads }))
    expect(ttl.TimeToLiveDescription?.TimeToLiveStatus).toBe('ENABLED')
  })

  test('the largest payload of one item is taken, one byte more is refused with advice', async () => {
    const { outbox } = await opened()
    const limit = outbox.storage.limits.payloadBytes
    const store = outbox.sagaStore('1h', { compression: 'none' })
    const id = 'x'.repeat(128)
    const frame = 13
    await store.put(id, new Uint8Array(limit - frame - 1))
    await store.put(id, new Uint8Array(limit - frame))
    await expect(store.put(id, new Uint8Array(limit - frame + 1))).rejects.toMatchObject({
      limit,
      actual: limit + 1,
    })
    await expect(store.put(id, new Uint8Array(limit))).rejects.toThrow(/chunkPayloads: true/)
  })

  test('sizes are counted as DynamoDB counts them', async () => {
    expect(
      itemBytes({ id: 'é', n: 12345, b: Uint8Array.of(1, 2), t: true, list: ['a'], map: { x: 'y' } }),
    ).toBe(2 + 2 + 1 + 4 + 1 + 2 + 1 + 1 + 4 + 3 + 1 + 1 + 3 + 3 + 1 + 1 + 1)
  })

  test('chunks spread a payload over items of one transaction, and never mix two puts', async () => {
    const { client, tables, outbox, during } = await opened({ chunkPayloads: true })
    const store = outbox.sagaStore('1h', { compression: 'none' })
    const large = Uint8Array.from({ length: 3_000_000 }, (_, index) => (index * 31) % 251)
    expect(await during(() => store.put('claim', large))).toEqual(['TransactWriteCommand'])
    const count = async (): Promise<number | undefined> =>
      (await client.send(new ScanCommand({ TableName: tables.payloads, Select: 'COUNT' }))).Count
    expect(await count()).toBeGreaterThan(1)
    expect(Buffer.from((await store.get('claim')) ?? []).equals(Buffer.from(large))).toBe(true)
    await store.delete('claim')
    expect(await store.get('claim')).toBeUndefined()
    const parts = await client.send(new ScanCommand({ TableName: tables.payloads }))
    expect(parts.Items).toEqual([])
    await expect(store.put('claim', new Uint8Array(4_100_000))).rejects.toThrow(PayloadTooLargeError)
  })

  test('a transaction that is too large, or names an item twice, is refused before anything is sent', async () => {
    const { outbox, bus, tables, during } = await opened()
    const many = async (): Promise<void> => {
      await expect(
        outbox.transaction(async () => {
          for (let n = 0; n < 101; n++) await bus.emit('a', {})
        }),
      ).rejects.toThrow(TransactionTooLargeError)
    }
    expect(await during(many)).toEqual([])
    const large = outbox.transaction(async (tx) => {
      for (let n = 0; n < 12; n++)
        tx.put({ TableName: tables.events, Item: { id: `${n}`, data: 'x'.repeat(380_000) } })
    })
    await expect(large).rejects.toMatchObject({ limit: 4 * 1024 * 1024 })
    const twice = outbox.transaction(async (tx) => {
      tx.delete({ TableName: tables.events, Key: { id: 'a' } }).delete({
        TableName: tables.events,
        Key: { id: 'a' },
      })
    })
    await expect(twice).rejects.toThrow(/same item twice/)
    await outbox.transaction(async () => {
      for (let n = 0; n < 100; n++) await bus.emit('a', {})
    })
    expect(await outbox.stats()).toMatchObject({ due: 100 })
  })

  test('conflicts are tried again, and only while every reason is a passing one', async () => {
    const { outbox, bus, during, fail } = await opened()
    const emitTwo = () => bus.emitMany([1, 2].map((payload) => ({ type: 'a', payload })))
    fail('TransactWriteCommand', canceled('None', 'TransactionConflict'))
    fail('TransactWriteCommand', canceled('ThrottlingError', 'None'))
    expect(await during(emitTwo)).toHaveLength(3)
    for (let tries = 0; tries < 8; tries++)
      fail('TransactWriteCommand', canceled('TransactionConflict', 'None'))
    await expect(emitTwo()).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    fail('TransactWriteCommand', canceled('TransactionConflict', 'ValidationError'))
    await expect(emitTwo()).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    expect(await outbox.stats()).toMatchObject({ due: 2 })
  })

  test('a condition of the user’s own that fails keeps everything out, and says which', async () => {
    const { outbox, bus, tables } = await opened()
    const failing = outbox.transaction(async (tx) => {
      tx.conditionCheck({
        TableName: tables.events,
        Key: { id: 'none' },
        ConditionExpression: 'attribute_exists(id)',
      })
      await bus.emit('a', {})
    })
    await expect(failing).rejects.toThrow(/item 1 of the transaction was refused \(ConditionalCheckFailed/)
    await expect(failing).rejects.toThrow(StorageError)
    expect(await outbox.stats()).toMatchObject({ due: 0 })
  })

  test('throttling and a lost answer are passing errors or an unknown outcome', async () => {
    const { bus, fail } = await opened()
    fail('PutCommand', error('ProvisionedThroughputExceededException'))
    await expect(bus.emit('a', {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    fail('PutCommand', error('TimeoutError', { code: 'ECONNRESET' }))
    await expect(bus.emit('a', {})).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
    fail('PutCommand', error('ValidationException'))
    await expect(bus.emit('a', {})).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
  })

  test('the dispatcher goes on by itself after faults', async () => {
    const { bus, fail } = await opened()
    bus.on('a', () => {})
    await bus.start()
    for (let times = 0; times < 3; times++) {
      fail('QueryCommand', error('ThrottlingException'))
      fail('UpdateCommand', error('InternalServerError'))
      fail('DeleteCommand', error('ThrottlingException'))
    }
    await Promise.all([bus.waitFor('a', { timeout: '20s' }), bus.emit('a', {})])
    await bus.stop()
  })

  test('events are spread over the shards', async () => {
    const { client, tables, bus } = await opened({ shards: 4 })
    await bus.emitMany(Array.from({ length: 80 }, () => ({ type: 'a', payload: {} })))
    const { Items = [] } = await client.send(new ScanCommand({ TableName: tables.events }))
    const shards = Map.groupBy(Items, ({ due_shard }) => due_shard as string)
    expect([...shards.keys()].toSorted()).toEqual(['0', '1', '2', '3'])
    for (const events of shards.values()) expect(events.length).toBeGreaterThan(5)
  })

  test('missing and foreign tables, and names that are none, are refused', async () => {
    const { client, tables } = await opened()
    const missing = { events: 'missing_events', payloads: 'missing_payloads' }
    const outbox = new DynamoDBAwsSdkOutbox(client, { tables: missing, createTables: false, logger: false })
    await expect(outbox.initialize()).rejects.toThrow(NotInitializedError)
    await expect(new OutboxEventBus(outbox).emit('a', {})).rejects.toThrow(NotInitializedError)
    const swapped = { events: tables.payloads, payloads: tables.events }
    const foreign = new DynamoDBAwsSdkOutbox(client, { tables: swapped, logger: false })
    await expect(foreign.initialize()).rejects.toThrow(UnsupportedBackendError)
    expect(() => new DynamoDBAwsSdkOutbox(client, { tables: { events: 'a b' } })).toThrow(ConfigurationError)
    expect(() => new DynamoDBAwsSdkOutbox(client, { shards: 0 })).toThrow(/shards/)
    expect(eventsTable({ tables: { events: 'mine' } })).toMatchObject({ TableName: 'mine' })
  })

  test('only an open transaction of the outbox can be enlisted', async () => {
    const { outbox } = await opened()
    await expect(outbox.enlist({} as DynamoDBTransaction, async () => {})).rejects.toThrow(
      ForeignTransactionError,
    )
    let late: DynamoDBTransaction | undefined
    await outbox.transaction(async (tx) => {
      late = tx
    })
    expect(() => late?.put({ TableName: 'x', Item: {} })).toThrow(TransactionClosedError)
  })
})
