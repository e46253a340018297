import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { GetCommand, PutCommand, ScanCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb'
import { LeaseLostError, StorageError } from 'outbox-core'
import { recordingLogger, takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox } from '../src/index.ts'
import {
  awsError,
  canceled,
  cleanups,
  completing,
  documentClient,
  event,
  eventItems,
  lease,
  opened,
  outcome,
  payload,
} from './opened.ts'

describe.skipIf(serverUrl() === undefined)('DynamoDB, failing', () => {
  test('conflicts are tried again under another token, and only while every reason is a passing one', async () => {
    const { outbox, bus, during, answer, fail } = await opened()
    await bus.emit('a', {})
    const emitTwo = () => bus.emitMany([1, 2].map((number) => ({ type: 'a', payload: number })))
    const tokens = new Set<unknown>()
    for (const reasons of [
      ['None', 'TransactionConflict'],
      ['ThrottlingError', 'ProvisionedThroughputExceeded'],
    ]) {
      answer('TransactWriteCommand', ({ ClientRequestToken }) => {
        tokens.add(ClientRequestToken)
        throw canceled(...reasons)
      })
    }
    answer('TransactWriteCommand', ({ ClientRequestToken }, through) => {
      tokens.add(ClientRequestToken)
      return through()
    })
    expect(await during(emitTwo)).toHaveLength(3)
    expect(tokens.size).toBe(3)
    expect(tokens).not.toContain(undefined)
    for (let tries = 0; tries < 8; tries++)
      fail('TransactWriteCommand', canceled('TransactionConflict', 'None'))
    await expect(emitTwo()).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: true })
    fail('TransactWriteCommand', canceled('TransactionConflict', 'ValidationError'))
    await expect(emitTwo()).rejects.toMatchObject({ code: 'OUTBOX_STORAGE', transient: false })
    expect(await outbox.stats()).toMatchObject({ due: 3 })
  })

  test('a condition of the user’s own that fails keeps everything out, says which, and keeps the reasons', async () => {
    const { outbox, bus, tables } = await opened()
    const failing = outbox.transaction(async (tx) => {
      await bus.emit('a', {})
      tx.put({ TableName: tables.payloads, Item: { id: 'mine' } }).conditionCheck({
        TableName: tables.events,
        Key: { id: 'none' },
        ConditionExpression: 'attribute_exists(id)',
      })
    })
    await expect(failing).rejects.toThrow(
      /your item 2 of the transaction was refused \(ConditionalCheckFailed/,
    )
    await expect(failing).rejects.toThrow(StorageError)
    await expect(failing).rejects.toMatchObject({
      transient: false,
      cause: {
        name: 'TransactionCanceledException',
        CancellationReasons: [{ Code: 'None' }, { Code: 'ConditionalCheckFailed' }, { Code: 'None' }],
      },
    })
    expect(await outbox.stats()).toMatchObject({ due: 0 })
    expect(await outbox.storage.getPayload('mine')).toBeUndefined()
  })

  test('no error carries the event that was found in the way', async () => {
    const { outbox, bus, tables } = await opened()
    const failing = outbox.transaction(async (tx) => {
      await bus.emit('a', { secret: 1 }, { id: 'order-1' })
      await outbox.detached(() => bus.emit('a', { secret: 2 }, { id: 'order-1' }))
      tx.conditionCheck({
        TableName: tables.events,
        Key: { id: 'none' },
        ConditionExpression: 'attribute_exists(id)',
      })
    })
    const error = await failing.catch((thrown) => thrown)
    expect(error.cause.CancellationReasons).toHaveLength(2)
    expect(JSON.stringify(error.cause)).not.toContain('secret')
  })

  test('a transaction that settles an event another worker took meanwhile is a lost lease, and writes nothing', async () => {
    const { client, tables, outbox, bus } = await opened()
    await bus.emit('a', {}, { id: 'held' })
    const [held] = await takeDue(outbox.storage, 1, 60_000)
    const failing = outbox.transaction(async (tx) => {
      tx.put({ TableName: tables.payloads, Item: { id: 'mine' } })
      await outbox.storage.write([completing(held ?? { id: '', attempt: 0 })], tx)
      await client.send(
        new UpdateCommand({
          TableName: tables.events,
          Key: { id: 'held' },
          UpdateExpression: 'SET attempt = attempt + :one',
          ExpressionAttributeValues: { ':one': 1 },
        }),
      )
    })
    await expect(failing).rejects.toThrow(LeaseLostError)
    const { Items } = await client.send(new ScanCommand({ TableName: tables.payloads }))
    expect(Items).toEqual([])
  })

  test('throttling and a lost answer are passing errors or an unknown outcome', async () => {
    const { bus, fail } = await opened()
    const passing = { code: 'OUTBOX_STORAGE', transient: true }
    const unknown = { code: 'OUTBOX_UNKNOWN_OUTCOME' }
    const cases: [Error, object][] = [
      [awsError('ProvisionedThroughputExceededException'), passing],
      [awsError('TimeoutError', { code: 'ECONNRESET' }), unknown],
      [awsError('InternalServerError', { $metadata: { httpStatusCode: 500 } }), unknown],
      // The first of the SDK's tries may have got through.
      [awsError('Error', { code: 'ECONNREFUSED', $metadata: { attempts: 3 } }), unknown],
      [awsError('Error', { code: 'ECONNREFUSED', $metadata: { attempts: 1 } }), passing],
      [awsError('ValidationException'), { code: 'OUTBOX_STORAGE', transient: false }],
    ]
    for (const [error, expected] of cases) {
      fail('TransactWriteCommand', error)
      await expect(bus.emit('a', {})).rejects.toMatchObject(expected)
    }
  })

  test('an answer that can’t be read leaves the outcome unknown', async () => {
    const answers: Record<string, string> = {
      GetItem: JSON.stringify({ Item: { version: { N: '2' }, shards: { N: '4' } } }),
      PutItem: '{}',
    }
    const server = createServer(({ headers }, response) => {
      const [, action = ''] = String(headers['x-amz-target']).split('.')
      response.end(answers[action] ?? '{"Attributes": {"id"')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    cleanups.push(async () => server.close())
    const { port } = server.address() as AddressInfo
    const client = documentClient({ endpoint: `http://127.0.0.1:${port}` })
    const { storage } = new DynamoDBAwsSdkOutbox(client, { logger: false })
    for (const append of [[event('one')], [event('one'), event('two')]]) {
      const written = storage.write([outcome({ append })])
      await expect(written).rejects.toMatchObject({ code: 'OUTBOX_UNKNOWN_OUTCOME' })
    }
    await expect(takeDue(storage, 1, 1_000)).rejects.toMatchObject({ code: 'OUTBOX_STORAGE' })
  })

  test('what the SDK itself sends again after a lost answer is written once', async () => {
    const { client, tables, outbox } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: [event('before')] })])
    let sent = 0
    client.middlewareStack.add(
      (next) => async (args) => {
        sent++
        const answer = await next(args)
        if (sent % 2 === 1) throw awsError('TimeoutError', { code: 'ECONNRESET' })
        return answer
      },
      { step: 'deserialize', priority: 'high', name: 'losesEveryOtherAnswer' },
    )
    const step = outcome({ append: [event('a'), event('b')], put: [payload('claim', Uint8Array.of(1))] })
    expect(await storage.write([step])).toEqual([{ status: 'applied' }])
    expect(await storage.write([outcome({ append: [event('c')] })])).toEqual([{ status: 'applied' }])
    expect(sent).toBe(4)
    client.middlewareStack.remove('losesEveryOtherAnswer')
    const Items = await eventItems(client, tables)
    expect(Items.map(({ id }) => id).toSorted()).toEqual(['a', 'b', 'before', 'c'])
  })

  test('events that were leased beside a failing one are handed out', async () => {
    const { outbox, fail } = await opened()
    const { storage } = outbox
    const ids = ['a', 'b', 'c']
    await storage.write([outcome({ append: ids.map((id) => event(id)) })])
    const throttled = awsError('ProvisionedThroughputExceededException')
    fail('UpdateCommand', throttled, ({ Key }) => (Key as { id: string }).id === 'b')
    const leased = await takeDue(storage, 3, 60_000)
    expect(leased.map(({ id, attempt }) => [id, attempt]).toSorted()).toEqual([
      ['a', 1],
      ['c', 1],
    ])
    fail('UpdateCommand', throttled)
    await expect(takeDue(storage, 3, 60_000)).rejects.toMatchObject({ transient: true })
    expect(await takeDue(storage, 3, 60_000)).toMatchObject([{ id: 'b', attempt: 1 }])
  })

  test('a shard that is throttled does not keep the events of the others waiting', async () => {
    const place = await opened({ shards: 2 })
    const { client, tables, bus, fail } = place
    await bus.emitMany(Array.from({ length: 30 }, () => ({ type: 'a', payload: {} })))
    const inShard = (shard: string) => (input: Record<string, unknown>) =>
      (input['ExpressionAttributeValues'] as Record<string, unknown>)[':shard'] === `a#${shard}`
    const throttled = awsError('ThrottlingException')
    fail('QueryCommand', throttled, inShard('0'))
    const leased = await lease(place, 100)
    const Items = await eventItems(client, tables)
    const others = Items.filter(({ due_shard }) => due_shard === 'a#1')
    expect(leased.map(({ id }) => id).toSorted()).toEqual(others.map(({ id }) => id as string).toSorted())
    fail('QueryCommand', throttled, inShard('0'))
    fail('QueryCommand', throttled, inShard('1'))
    await expect(lease(place, 100)).rejects.toMatchObject({ transient: true })
    expect(await lease(place, 100)).toHaveLength(30 - others.length)
  })

  test('of a batch in which one outcome fails, the others are applied, and known when it is repeated', async () => {
    const { outbox, fail, during } = await opened()
    const { storage } = outbox
    const ids = ['a', 'b', 'c', 'd']
    await storage.write([outcome({ append: ids.map((id) => event(id)) })])
    const leased = await takeDue(storage, 4, 60_000)
    const batch = leased.map((one) => completing(one))
    const last = leased.at(-1)?.id
    fail('DeleteCommand', awsError('ThrottlingException'), ({ Key }) => (Key as { id: string }).id !== last)
    await expect(storage.write(batch)).rejects.toMatchObject({ transient: true })
    expect(await outbox.stats()).toMatchObject({ leased: 1 })
    const repeated = await during(async () => {
      expect(await storage.write(batch)).toEqual(Array(4).fill({ status: 'applied' }))
    })
    expect(repeated).toEqual(['DeleteCommand'])
    expect(await outbox.stats()).toMatchObject({ leased: 0 })
  })

  test('a throttled settlement loses no lease of those beside it', async () => {
    const logger = recordingLogger()
    const { bus, fail, outbox } = await opened({ logger })
    const throttled = awsError('ThrottlingException')
    for (let times = 0; times < 3; times++) fail('DeleteCommand', throttled)
    let completed = 0
    bus.on('a', () => {})
    await bus.emitMany(Array.from({ length: 10 }, () => ({ type: 'a', payload: {} })))
    const all = Promise.all(
      Array.from({ length: 10 }, () => bus.waitFor('a', { timeout: '20s' }).then(() => completed++)),
    )
    await bus.start()
    await all
    await bus.stop()
    expect(completed).toBe(10)
    expect(await outbox.stats()).toMatchObject({ due: 0, leased: 0, dead: 0 })
    expect(logger.lines.filter(({ message }) => message.includes('lease was lost'))).toEqual([])
  })

  test('what a throttled batch read leaves out is asked for again, but not for ever', async () => {
    const { tables, outbox, answer } = await opened()
    const { storage } = outbox
    const ids = ['a', 'b', 'c']
    await storage.write([outcome({ append: ids.map((id) => event(id)) })])
    for (const { id, attempt } of await takeDue(storage, 3, 60_000)) {
      await storage.write([outcome({ settle: { kind: 'bury', id, attempt, error: 'because' } })])
    }
    type Asked = { [table: string]: { Keys: { id: { S: string } }[] } }
    const leaveOut = (answered: number) =>
      answer('BatchGetCommand', async ({ RequestItems }, through) => {
        const { Keys } = (RequestItems as Asked)[tables.events] ?? { Keys: [] }
        const { Responses } = (await through()) as { Responses: Record<string, { id: { S: string } }[]> }
        const left = Keys.slice(answered)
        const found = Responses[tables.events]?.filter(({ id }) => !left.some((key) => key.id.S === id.S))
        return { Responses: { [tables.events]: found }, UnprocessedKeys: { [tables.events]: { Keys: left } } }
      })
    for (const answered of [1, 0, 1]) leaveOut(answered)
    const { events } = await storage.listDead({ limit: 10 })
    expect(events.map(({ id }) => id).toSorted()).toEqual(ids)
    for (let tries = 0; tries < 8; tries++) leaveOut(0)
    await expect(storage.listDead({ limit: 10 })).rejects.toMatchObject({ transient: true })
  })

  test('a payload in parts that is replaced, removed or incomplete while it is read', async () => {
    const { client, tables, outbox, answer } = await opened({ chunkPayloads: true })
    const { storage } = outbox
    const data = (fill: number) => Buffer.alloc(1_000_000, fill)
    await storage.write([outcome({ put: [payload('claim', data(1))] })])
    const whileReading = (work: () => Promise<unknown>) =>
      answer(
        'GetCommand',
        async (_, through) => {
          await work()
          return through()
        },
        ({ Key }) => (Key as { id: string }).id === 'claim#1',
      )
    whileReading(() => storage.write([outcome({ put: [payload('claim', data(2))] })]))
    expect(data(2).equals((await storage.getPayload('claim')) ?? Buffer.of())).toBe(true)
    whileReading(() => storage.write([outcome({ remove: ['claim'] })]))
    expect(await storage.getPayload('claim')).toBeUndefined()
    await storage.write([outcome({ put: [payload('claim', data(3))] })])
    const { Item } = await client.send(new GetCommand({ TableName: tables.payloads, Key: { id: 'claim#2' } }))
    const foreign = { ...Item, token: 'of another put' }
    await client.send(new PutCommand({ TableName: tables.payloads, Item: foreign }))
    await expect(storage.getPayload('claim')).rejects.toMatchObject({ code: 'OUTBOX_CORRUPT_PAYLOAD' })
  })

  test('the dispatcher goes on by itself after faults', async () => {
    const { bus, fail } = await opened()
    bus.on('a', () => {})
    await bus.start()
    for (let times = 0; times < 3; times++) {
      fail('QueryCommand', awsError('ThrottlingException'))
      fail('UpdateCommand', awsError('InternalServerError'))
      fail('DeleteCommand', awsError('ThrottlingException'))
    }
    await Promise.all([bus.waitFor('a', { timeout: '20s' }), bus.emit('a', {})])
    await bus.stop()
  })
})
