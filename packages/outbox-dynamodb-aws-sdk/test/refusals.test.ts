import { CreateTableCommand, DeleteTableCommand } from '@aws-sdk/client-dynamodb'
import { NumberValue } from '@aws-sdk/lib-dynamodb'
import { blameOf, NotInitializedError, StorageError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox, eventsTable } from '../src/index.ts'
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
  tableNames,
} from './opened.ts'

const REFUSED = { code: 'OUTBOX_STORAGE', transient: false, blame: 'event' }
const PASSING = { code: 'OUTBOX_STORAGE', transient: true, blame: 'environment' }
const NEITHER = { code: 'OUTBOX_STORAGE', transient: false, blame: 'environment' }
const UNKNOWN = { code: 'OUTBOX_UNKNOWN_OUTCOME' }

const status = (httpStatusCode: number, attempts = 1) => ({ $metadata: { httpStatusCode, attempts } })

const later = { kind: 'retry', error: null, counted: true } as const

class Secret {
  toString() {
    return 'secret'
  }
}

function holdingItself(): object {
  const item: Record<string, unknown> = { id: 'x' }
  return Object.assign(item, { item })
}

/** Items of the user's own that the document client can't encode, or DynamoDB does not take. */
const BAD_ITEMS: [string, () => object][] = [
  ['NaN', () => ({ id: 'x', n: Number.NaN })],
  ['too large a number', () => ({ id: 'x', n: 2 ** 60 })],
  ['a number out of all range', () => ({ id: 'x', n: NumberValue.from('1e300') })],
  ['text for a number', () => ({ id: 'x', n: NumberValue.from('secret') })],
  ['an empty set', () => ({ id: 'x', set: new Set() })],
  ['a set of objects', () => ({ id: 'x', set: new Set([{}]) })],
  ['an instance of a class', () => ({ id: 'x', secret: new Secret() })],
  ['an object that holds itself', holdingItself],
  ['an empty key', () => ({ id: '' })],
  ['no key', () => ({ other: 'x' })],
  ['a key of another type', () => ({ id: 5 })],
  ['a key that is too long', () => ({ id: 'x'.repeat(2_049) })],
  ['more than an item takes', () => ({ id: 'x', text: 'x'.repeat(410_000) })],
  ['too deep a nesting', () => ({ id: 'x', deep: JSON.parse(`${'['.repeat(40)}${']'.repeat(40)}`) })],
]

describe.skipIf(serverUrl() === undefined)('DynamoDB, refusing', () => {
  test.each(BAD_ITEMS)('%s in an item of the user’s own is the event’s own fault', async (_, item) => {
    const { client, tables, outbox, bus } = await opened()
    const failing = outbox.transaction(async (tx) => {
      await bus.emit('a', {})
      tx.put({ TableName: tables.payloads, Item: item() })
    })
    const error: Error = await failing.catch((thrown) => thrown)
    expect(error).toMatchObject(REFUSED)
    expect(`${error.message} ${error.cause}`).not.toMatch(/secret|1152921504606847000/)
    expect(await eventItems(client, tables)).toEqual([])
  })

  test('a request that is too large for DynamoDB is refused, and not as throttling', async () => {
    const { tables, outbox } = await opened()
    const failing = outbox.transaction(async (tx) => {
      tx.conditionCheck({
        TableName: tables.events,
        Key: { id: 'x' },
        ConditionExpression: 'body = :text',
        ExpressionAttributeValues: { ':text': 'x'.repeat(17_000_000) },
      })
    })
    await expect(failing).rejects.toMatchObject(REFUSED)
  })

  test.each<[Error, object]>([
    [awsError('ValidationException', status(400)), REFUSED],
    [awsError('SerializationException', status(400)), REFUSED],
    [awsError('ItemCollectionSizeLimitExceededException', status(400)), REFUSED],
    [awsError('Unknown', status(413)), REFUSED],
    [awsError('RequestLimitExceeded', status(400)), PASSING],
    [awsError('ThrottlingException', status(400)), PASSING],
    [awsError('ThrottlingException', status(400, 3)), UNKNOWN],
    [awsError('ProvisionedThroughputExceededException', status(400)), PASSING],
    [awsError('TransactionConflictException', status(400)), PASSING],
    [awsError('TransactionInProgressException', status(400)), PASSING],
    [awsError('InternalServerError', status(500)), UNKNOWN],
    [awsError('ServiceUnavailable', status(503)), UNKNOWN],
    [awsError('CredentialsProviderError'), PASSING],
    [awsError('CredentialsProviderError', { $metadata: { attempts: 1 } }), PASSING],
    [awsError('ExpiredTokenException', status(400)), PASSING],
    [awsError('Error', { code: 'ENOTFOUND', $metadata: { attempts: 1 } }), PASSING],
    [awsError('Error', { code: 'EHOSTUNREACH', $metadata: { attempts: 1 } }), PASSING],
    [awsError('TimeoutError'), UNKNOWN],
    // HTTP/2 streams end like this: sent, without a code, without an answer.
    [awsError('Error', { $metadata: { attempts: 1 } }), UNKNOWN],
    [awsError('AccessDeniedException', status(400)), NEITHER],
    [awsError('UnrecognizedClientException', status(400)), NEITHER],
    [awsError('TypeError'), NEITHER],
    [awsError('ResourceNotFoundException', status(400)), { code: 'OUTBOX_NOT_INITIALIZED' }],
  ])('a write that fails with %s', async (error, expected) => {
    const { bus, fail } = await opened()
    fail('TransactWriteCommand', error)
    await expect(bus.emit('a', {})).rejects.toMatchObject(expected)
  })

  test.each<[string[], object]>([
    [['None', 'ValidationError'], REFUSED],
    [['ItemCollectionSizeLimitExceeded', 'None'], REFUSED],
    // It may pass, but the other won't.
    [
      ['TransactionConflict', 'ValidationError'],
      { ...REFUSED, message: expect.stringContaining('item 2 of the transaction') },
    ],
    [['ConditionalCheckFailed', 'None', 'ValidationError'], REFUSED],
    // What is stored may change, and the user's condition hold.
    [['ConditionalCheckFailed', 'None', 'None'], NEITHER],
    [[], { ...NEITHER, message: expect.stringContaining('TransactionCanceledException') }],
  ])('a transaction that is cancelled for %s', async (reasons, expected) => {
    const { tables, outbox, bus, fail } = await opened()
    fail('TransactWriteCommand', canceled(...reasons))
    const failing = outbox.transaction(async (tx) => {
      tx.put({ TableName: tables.payloads, Item: { id: 'mine' } })
      await bus.emit('a', {})
      await bus.emit('b', {})
    })
    await expect(failing).rejects.toMatchObject(expected)
  })

  test('an index that is missing, or not filled yet, is nothing that an event can help', async () => {
    const { client, fail } = await opened()
    const { events, payloads } = tableNames()
    const { GlobalSecondaryIndexes: _, ...definition } = eventsTable({ tables: { events } })
    const AttributeDefinitions = [{ AttributeName: 'id', AttributeType: 'S' as const }]
    await client.send(new CreateTableCommand({ ...definition, AttributeDefinitions }))
    cleanups.push(() => client.send(new DeleteTableCommand({ TableName: events })))
    const { storage } = new DynamoDBAwsSdkOutbox(client, { tables: { events, payloads }, logger: false })
    await expect(takeDue(storage, 1, 1_000)).rejects.toThrow(NotInitializedError)
    const message = 'Cannot read from backfilling global secondary index: closed'
    fail('QueryCommand', Object.assign(awsError('ValidationException', status(400)), { message }))
    await expect(storage.listDead({ limit: 1 })).rejects.toMatchObject(PASSING)
  })

  test.each([
    ['sets nothing', {}],
    ['takes imprecise numbers', { marshallOptions: { allowImpreciseNumbers: true } }],
  ])(
    'with a client that %s, a moment that is none is refused before anything is sent',
    async (_, translation) => {
      const place = await opened({}, translation)
      const { outbox, during } = place
      const { storage } = outbox
      await storage.write([outcome({ append: [event('held')] })])
      const [held = { id: '', attempt: 0 }] = await takeDue(storage, 1, 60_000)
      const retry = (delayMs: number) => outcome({ settle: { ...later, ...held, delayMs } })
      for (const none of [Number.NaN, Number.POSITIVE_INFINITY, 1e300, -1e300]) {
        const refused = [
          outcome({ append: [event('due', { due: { inMs: none } })] }),
          outcome({ append: [event('due', { due: { at: none } })] }),
          outcome({ put: [{ ...payload('p', Uint8Array.of(1)), expires: { at: none } }] }),
          outcome({ append: [event('with it')], put: [payload('p', Uint8Array.of(1), none)] }),
          retry(none),
          completing(held, {}, none),
        ]
        const commands = await during(async () => {
          for (const one of refused) {
            await expect(storage.write([one])).rejects.toMatchObject(REFUSED)
            await outbox.transaction(async (tx) => {
              const good = outcome({ append: [event('good')] })
              await expect(storage.write([good, one], tx)).rejects.toMatchObject(REFUSED)
              expect(tx.collected.events.size).toBe(0)
            })
          }
          await expect(storage.keep('held', none)).rejects.toMatchObject(REFUSED)
          await expect(lease(place, 1, none)).rejects.toMatchObject(REFUSED)
          await expect(storage.extend([held], none)).rejects.toMatchObject(REFUSED)
        })
        expect(commands).toEqual([])
      }
      expect(await storage.write([completing(held)])).toEqual([{ status: 'applied' }])
    },
  )

  test('what is refused concerns only itself, wherever in a write it is, and is what the write fails with', async () => {
    const { outbox, during, fail } = await opened()
    const { storage } = outbox
    const ids = ['a', 'b', 'c', 'd', 'e']
    await storage.write([outcome({ append: ids.map((id) => event(id)) })])
    const leased = await takeDue(storage, 5, 60_000)
    const batch = leased.map((lease) => {
      if (lease.id === 'd') return outcome({ settle: { kind: 'bury', ...lease, error: 'x'.repeat(410_000) } })
      return completing(lease)
    })
    // The first to fail would pass.
    fail('DeleteCommand', awsError('ThrottlingException'), ({ Key }) => (Key as { id: string }).id === 'a')
    const error = await storage.write(batch).catch((thrown) => thrown)
    expect(error).toBeInstanceOf(StorageError)
    expect(blameOf(error)).toBe('event')
    expect(await outbox.stats()).toMatchObject({ leased: 2 })
    // Written one by one, as core does then, each has its own answer, and those that were applied know it.
    const apart = await during(async () => {
      const results = await Promise.allSettled(batch.map((one) => storage.write([one])))
      expect(results.map((one) => one.status)).toEqual([
        ...['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'fulfilled'],
      ])
      expect(results[4]).toMatchObject({ value: [{ status: 'applied' }] })
    })
    expect(apart.toSorted()).toEqual(['DeleteCommand', 'UpdateCommand'])
    expect(await outbox.stats()).toMatchObject({ leased: 1 })
  })

  test('what can be judged of a write is judged before anything of it is sent', async () => {
    const { outbox, during } = await opened()
    const { storage } = outbox
    await storage.write([outcome({ append: ['a', 'b'].map((id) => event(id)) })])
    const [good, other] = await takeDue(storage, 2, 60_000)
    const lease = { id: other?.id ?? '', attempt: 1 }
    const refused = [
      outcome({ settle: { ...later, ...lease, delayMs: Number.NaN } }),
      outcome({ append: [event('c', { due: { at: Number.NaN } })] }),
      outcome({ put: [payload('claim', Uint8Array.of(1), Number.NaN)] }),
      outcome({ append: [event('c', { body: 'x'.repeat(410_000) })] }),
      outcome({ append: Array.from({ length: 101 }, (_, n) => event(`many-${n}`)) }),
    ]
    for (const last of refused) {
      const write = () => storage.write([completing(good ?? lease), last])
      expect(await during(() => expect(write()).rejects.toThrow())).toEqual([])
    }
    expect(await outbox.stats()).toMatchObject({ leased: 2 })
  })

  test('a client that has no credentials yet says so in passing', async () => {
    const { tables } = await opened()
    let known = false
    const credentials = async () => {
      if (!known) throw awsError('CredentialsProviderError')
      return { accessKeyId: 'local', secretAccessKey: 'local' }
    }
    const client = documentClient({ credentials })
    cleanups.push(async () => client.destroy())
    const { storage } = new DynamoDBAwsSdkOutbox(client, { tables, logger: false })
    const write = () => storage.write([outcome({ append: [event('a')] })])
    await expect(write()).rejects.toMatchObject(PASSING)
    known = true
    expect(await write()).toEqual([{ status: 'applied' }])
  })
})
