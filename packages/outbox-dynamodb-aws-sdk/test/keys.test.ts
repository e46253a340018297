import { GetCommand, ScanCommand, TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import { OutboxEventBus } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox } from '../src/index.ts'
import { awsError, completing, event, lease, type Opened, opened, outcome } from './opened.ts'

const TRANSACT = 'TransactWriteCommand'

const keyed = (id: string, more: object = {}) => event(id, { key: 'k', ...more })

const appending = (...ids: string[]) => outcome({ append: ids.map((id) => keyed(id)) })

/** Takes and completes one after the other. */
async function inOrder({ outbox: { storage } }: Opened): Promise<string[]> {
  const order: string[] = []
  for (;;) {
    const [first] = await takeDue(storage, 1, 60_000)
    if (!first) return order
    order.push(first.id)
    expect(await storage.write([completing(first)])).toEqual([{ status: 'applied' }])
  }
}

/** The keys of what the outbox notes beside events. */
async function notes({ client, tables }: Opened): Promise<string[]> {
  const { Items = [] } = await client.send(
    new ScanCommand({ TableName: tables.events, ConsistentRead: true }),
  )
  return Items.map(({ id }) => String(id)).filter((id) => /^outbox (key|place) /.test(id))
}

/** Has the next transaction wait for what another process writes. */
function overtakenBy({ answer }: Opened, meanwhile: () => Promise<unknown>): void {
  answer(TRANSACT, async (_, through) => {
    await meanwhile()
    return through()
  })
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, keys', () => {
  test('requests: an append reads its key; settling reads what is behind, a step in place reads nothing', async () => {
    const place = await opened({ shards: 1 })
    const { storage } = place.outbox
    await storage.write([outcome({ append: [event('free')] })])
    expect(await place.during(() => storage.write([appending('1')]))).toEqual(['GetCommand', TRANSACT])
    expect(await place.during(() => storage.write([appending('2', '3')]))).toEqual(['GetCommand', TRANSACT])
    const [, first] = await lease(place, 2)
    if (!first) throw new Error('nothing leased')
    const next = keyed('next', { inPlace: true, leased: true, due: { inMs: 60_000 } })
    const step = () => storage.write([completing(first, { append: [next] })])
    expect(await place.during(step)).toEqual([TRANSACT])
    const held = { id: 'next', attempt: 1, key: 'k' }
    expect(await place.during(() => storage.write([completing(held)]))).toEqual(['GetCommand', TRANSACT])
    expect(await inOrder(place)).toEqual(['2', '3'])
  })

  test('leaves nothing behind once its events are done', async () => {
    const place = await opened()
    const { storage } = place.outbox
    await storage.write([appending('1', '2'), appending('3')])
    expect((await notes(place)).toSorted()).toEqual(['outbox key k', 'outbox place 2 k', 'outbox place 3 k'])
    expect(await inOrder(place)).toEqual(['1', '2', '3'])
    expect(await notes(place)).toEqual([])
  })

  test('one that another process has leased is settled as well', async () => {
    const place = await opened()
    const { client, tables, outbox } = place
    await outbox.storage.write([appending('1', '2')])
    const [first] = await takeDue(outbox.storage, 1, 60_000)
    const beside = new DynamoDBAwsSdkOutbox(client, { tables, logger: false })
    expect(await beside.storage.write([completing(first ?? { id: '', attempt: 0 })])).toEqual([
      { status: 'applied' },
    ])
    expect(await inOrder(place)).toEqual(['2'])
  })

  test('who appends at the same time goes behind who was quicker', async () => {
    const place = await opened()
    const { storage } = place.outbox
    overtakenBy(place, () => storage.write([appending('quick')]))
    await storage.write([appending('1')])
    overtakenBy(place, () => storage.write([appending('2')]))
    await storage.write([appending('3')])
    expect(await inOrder(place)).toEqual(['quick', '1', '2', '3'])
  })

  test('what is appended while the last one is settled is not forgotten, whichever is first', async () => {
    const place = await opened()
    const { storage } = place.outbox
    await storage.write([appending('1')])
    const [first] = await takeDue(storage, 1, 60_000)
    overtakenBy(place, () => storage.write([appending('2')]))
    expect(await storage.write([completing(first ?? { id: '', attempt: 0 })])).toEqual([
      { status: 'applied' },
    ])
    const [second] = await takeDue(storage, 1, 60_000)
    expect(second?.id).toBe('2')
    overtakenBy(place, () => storage.write([completing(second ?? { id: '', attempt: 0 })]))
    await storage.write([appending('3')])
    expect(await inOrder(place)).toEqual(['3'])
    expect(await notes(place)).toEqual([])
  })

  test('a transaction that was overtaken in a key is read and sent again, under another token', async () => {
    const place = await opened()
    const { outbox, tables } = place
    const { storage } = outbox
    const bus = new OutboxEventBus(outbox)
    const tokens: unknown[] = []
    const isWhole = ({ TransactItems }: Record<string, unknown>) => (TransactItems as unknown[]).length > 3
    for (const meanwhile of [() => storage.write([appending('quick')]), async () => {}]) {
      place.answer(
        TRANSACT,
        async ({ ClientRequestToken }, through) => {
          tokens.push(ClientRequestToken)
          await meanwhile()
          return through()
        },
        isWhole,
      )
    }
    await outbox.transaction(async (tx) => {
      tx.put({ TableName: tables.payloads, Item: { id: 'mine' } })
      await storage.write([appending('1')], tx)
      await storage.write([appending('2')], tx)
      await bus.emit('b', {}, { id: 'b' })
    })
    expect(new Set(tokens).size).toBe(2)
    expect((await inOrder(place)).filter((id) => id !== 'b')).toEqual(['quick', '1', '2'])
    const mine = new GetCommand({ TableName: tables.payloads, Key: { id: 'mine' } })
    expect((await place.client.send(mine)).Item).toEqual({ id: 'mine' })
  })

  test('a condition of the user’s own that fails is theirs, overtaken or not', async () => {
    const place = await opened()
    const { outbox, tables } = place
    overtakenBy(place, () => outbox.storage.write([appending('quick')]))
    const failing = outbox.transaction(async (tx) => {
      tx.conditionCheck({
        ...{ TableName: tables.payloads, Key: { id: 'none' } },
        ConditionExpression: 'attribute_exists(id)',
      })
      await outbox.storage.write([appending('1')], tx)
    })
    await expect(failing).rejects.toThrow(/your item 1 of the transaction was refused/)
    expect(await inOrder(place)).toEqual(['quick'])
  })

  test('who is overtaken again and again is told to try later, and has written nothing', async () => {
    const place = await opened()
    const { outbox } = place
    await outbox.storage.write([outcome({ append: [event('0')] })])
    const overtaken = () => {
      for (let tries = 0; tries < 8; tries++) {
        place.answer(TRANSACT, ({ TransactItems }) => {
          const CancellationReasons = (TransactItems as unknown[]).map((_, index, { length }) => ({
            Code: index === length - 1 ? 'ConditionalCheckFailed' : 'None',
          }))
          throw awsError('TransactionCanceledException', { CancellationReasons })
        })
      }
    }
    const passing = { code: 'OUTBOX_STORAGE', transient: true }
    overtaken()
    await expect(outbox.storage.write([appending('1')])).rejects.toMatchObject(passing)
    overtaken()
    const failing = outbox.transaction((tx) => outbox.storage.write([appending('1')], tx))
    await expect(failing).rejects.toMatchObject(passing)
    expect(await outbox.stats()).toMatchObject({ due: 1 })
  })

  test('a transaction that the user sends holds for the key as it was', async () => {
    const place = await opened()
    const { client, outbox } = place
    const { storage } = outbox
    const enlisted = async (...ids: string[]) => {
      const tx = outbox.begin()
      await outbox.enlist(tx, async () => {
        for (const id of ids) await storage.write([appending(id)], tx)
      })
      return () => client.send(new TransactWriteCommand({ TransactItems: [...tx.items] }))
    }
    await (await enlisted('1', '2'))()
    const late = await enlisted('late')
    await storage.write([appending('3')])
    await expect(late()).rejects.toMatchObject({ name: 'TransactionCanceledException' })
    await (await enlisted('4'))()
    expect(await inOrder(place)).toEqual(['1', '2', '3', '4'])
  })

  test('of a part that is taken back nothing stays in the key', async () => {
    const place = await opened()
    const { outbox } = place
    const { storage } = outbox
    const taken = new Error('taken back')
    await outbox.transaction(async (tx) => {
      await storage.write([appending('1')], tx)
      const part = storage.nested?.(tx, async () => {
        await storage.write([appending('gone')], tx)
        throw taken
      })
      await expect(part).rejects.toBe(taken)
      await storage.write([appending('2')], tx)
    })
    expect(await inOrder(place)).toEqual(['1', '2'])
  })

  test('what one process appends to a key at the same time is not in its own way', async () => {
    const place = await opened()
    const { outbox } = place
    const bus = new OutboxEventBus(outbox)
    await bus.emit('a', {}, { key: 'other' })
    const emits = Array.from({ length: 40 }, (_, n) => n)
    const commands = await place.during(() =>
      Promise.all(
        emits.map((n) => {
          const emit = () => bus.emit('a', { n }, { key: 'k' })
          return n % 4 === 0 ? outbox.transaction(emit) : emit()
        }),
      ),
    )
    expect(commands.filter((command) => command === TRANSACT)).toHaveLength(40)
    expect(await outbox.stats()).toMatchObject({ due: 2, blocked: 39 })
  })

  test('up to 50 new events of one key fit into a transaction', async () => {
    const place = await opened()
    const { storage } = place.outbox
    const ids = (count: number) => Array.from({ length: count }, (_, n) => `${n}`)
    const many = storage.write([appending(...ids(51))])
    await expect(many).rejects.toMatchObject({ code: 'OUTBOX_TRANSACTION_TOO_LARGE', limit: 100 })
    await storage.write([appending(...ids(50))])
    expect(await place.outbox.stats()).toMatchObject({ due: 1, blocked: 49 })
  })

  test('of events of one key in one write none is stored behind one that failed', async () => {
    const place = await opened()
    const { storage } = place.outbox
    place.fail(TRANSACT, awsError('ThrottlingException'))
    const batch = [appending('1'), appending('2'), outcome({ append: [event('free')] })]
    await expect(storage.write(batch)).rejects.toMatchObject({ transient: true })
    expect(await storage.write(batch)).toEqual(Array(3).fill({ status: 'applied' }))
    expect((await inOrder(place)).filter((id) => id !== 'free')).toEqual(['1', '2'])
  })
})
