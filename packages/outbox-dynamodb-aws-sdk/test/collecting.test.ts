import { TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import { TransactionClosedError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { serverUrl } from '../../../test/servers/provided.ts'
import type { DynamoDBTransaction } from '../src/index.ts'
import { awsError, completing, event, type Opened, opened, outcome, payload } from './opened.ts'

const bytes = (fill: number) => Uint8Array.of(fill)

/** What a transaction would send: what is done, and to which item. */
function described(tx: DynamoDBTransaction): string[] {
  return tx.items.map(({ Put, Update, Delete, ConditionCheck }) => {
    if (Put) return `put ${Put.Item?.['id']} ${Put.Item?.['data'] ?? ''}`.trim()
    if (Update)
      return `update ${Update.Key?.['id']} ${Update.ExpressionAttributeValues?.[':state'] ?? ''}`.trim()
    return `${Delete ? 'delete' : 'check'} ${(Delete ?? ConditionCheck)?.Key?.['id']}`
  })
}

/** Fails inside a part of the transaction. */
async function failing({ outbox }: Opened, tx: DynamoDBTransaction, work: () => Promise<unknown>) {
  const thrown = new Error('taken back')
  const part = outbox.storage.nested?.(tx, async () => {
    await work()
    throw thrown
  })
  await expect(part).rejects.toBe(thrown)
}

describe.skipIf(serverUrl() === undefined)('DynamoDB, collecting', () => {
  test('a part that is taken back leaves what was there before as it was, item by item', async () => {
    const place = await opened({ chunkPayloads: true })
    const { client, tables, outbox } = place
    const { storage } = outbox
    await storage.write([outcome({ append: [event('first'), event('second')] })])
    await storage.write([outcome({ put: [payload('stored', new Uint8Array(1_000_000))] })])
    const [first, second] = await takeDue(storage, 2, 60_000)
    if (!first || !second) throw new Error('nothing leased')
    const mine = (id: string) => ({ TableName: tables.payloads, Item: { id } })
    const named = { fingerprint: 'one' }
    const tx = outbox.begin()
    await outbox.enlist(tx, async () => {
      tx.put(mine('mine'))
      await storage.write(
        [completing(first, { append: [event('next')], put: [payload('changed', bytes(1))] })],
        tx,
      )
      const before = ['put mine', 'delete first', 'put next', 'put changed 1']
      expect(described(tx)).toEqual(before)
      await failing(place, tx, async () => {
        tx.put(mine('other')).delete({ TableName: tables.events, Key: { id: 'x' } })
        await storage.write([completing(second, { put: [payload('changed', bytes(2))] }, 1_000)], tx)
        await storage.write(
          [
            outcome({
              append: [event('named', named)],
              put: [payload('claim', bytes(3))],
              remove: ['stored'],
            }),
          ],
          tx,
        )
        expect(described(tx)).toEqual([
          ...[
            'put mine',
            'put other',
            'delete x',
            'delete first',
            'update second done',
            'put next',
            'put named',
          ],
          ...['put changed 2', 'delete stored', 'delete stored#1', 'delete stored#2', 'put claim 3'],
        ])
        expect(await storage.getPayload('stored', tx)).toBeUndefined()
      })
      expect(described(tx)).toEqual(before)
      expect(await storage.getPayload('changed', tx)).toEqual(bytes(1))
      expect(await storage.getPayload('stored', tx)).toHaveLength(1_000_000)
      // Nothing of it is remembered: neither the settlement nor the id is taken.
      const again = [completing(second), outcome({ append: [event('named', { fingerprint: 'two' })] })]
      expect(await storage.write(again, tx)).toEqual([{ status: 'applied' }, { status: 'applied' }])
    })
    await client.send(new TransactWriteCommand({ TransactItems: [...tx.items] }))
    expect((await takeDue(storage, 10, 60_000)).map(({ id }) => id).toSorted()).toEqual(['named', 'next'])
  })

  test('parts inside parts are taken back one by one, or with the one around them', async () => {
    const place = await opened()
    const { outbox, tables } = place
    const { storage } = outbox
    const tx = outbox.begin()
    const add = async (id: string) => {
      tx.put({ TableName: tables.payloads, Item: { id: `mine-${id}` } })
      await storage.write([outcome({ append: [event(id)] })], tx)
    }
    await outbox.enlist(tx, async () => {
      await add('a')
      await storage.nested?.(tx, async () => {
        await add('b')
        await failing(place, tx, async () => {
          await add('c')
          await storage.nested?.(tx, () => add('d'))
        })
        await add('e')
        await failing(place, tx, async () => {
          await failing(place, tx, () => add('f'))
          await add('g')
        })
      })
      expect(described(tx)).toEqual(
        ['a', 'b', 'e'].map((id) => `put mine-${id}`).concat(['put a', 'put b', 'put e']),
      )
      await failing(place, tx, () => storage.nested?.(tx, () => add('h')) ?? Promise.resolve())
      await add('i')
    })
    expect(described(tx).slice(-4)).toEqual(['put a', 'put b', 'put e', 'put i'])
  })

  test('a part that fails makes room for what it took of a transaction’s 100 items and 4 MB', async () => {
    const place = await opened()
    const { outbox } = place
    const { storage } = outbox
    const emit = (count: number, name: string, body = '{}') =>
      storage.write(
        [outcome({ append: Array.from({ length: count }, (_, n) => event(`${name}-${n}`, { body })) })],
        tx,
      )
    const tx = outbox.begin()
    await outbox.enlist(tx, async () => {
      await emit(50, 'kept')
      await failing(place, tx, () => emit(51, 'items'))
      await failing(place, tx, () => emit(11, 'bytes', `"${'x'.repeat(380_000)}"`))
      await emit(50, 'more')
    })
    expect(tx.items).toHaveLength(100)
  })

  test('what a part began and did not wait for is taken back, what came before it stays', async () => {
    const place = await opened()
    const { outbox, answer } = place
    const { storage } = outbox
    let answerNow = () => {}
    const slow = new Promise<void>((resolve) => {
      answerNow = resolve
    })
    for (const slowId of ['before', 'inside']) {
      answer(
        'GetCommand',
        async (_, through) => {
          await slow
          return through()
        },
        ({ Key }) => (Key as { id: string }).id === slowId,
      )
    }
    const named = (id: string) => outcome({ append: [event(id, { fingerprint: id })] })
    const unawaited: Promise<unknown>[] = []
    await outbox.transaction(async (tx) => {
      unawaited.push(storage.write([named('before')], tx))
      setTimeout(answerNow, 50)
      await failing(place, tx, async () => void unawaited.push(storage.write([named('inside')], tx)))
      await storage.write([named('after')], tx)
    })
    await Promise.all(unawaited)
    expect((await takeDue(storage, 10, 60_000)).map(({ id }) => id).toSorted()).toEqual(['after', 'before'])
  })

  test('bytes that their owner uses again before the commit are stored as they were', async () => {
    const { outbox } = await opened()
    const { storage } = outbox
    const buffer = Buffer.of(1, 2, 3)
    await outbox.transaction(async (tx) => {
      const writing = storage.write([outcome({ put: [payload('p', buffer)] })], tx)
      buffer.fill(0)
      await writing
      expect(await storage.getPayload('p', tx)).toEqual(Uint8Array.of(1, 2, 3))
    })
    expect(await storage.getPayload('p')).toEqual(Uint8Array.of(1, 2, 3))
  })

  test('what comes while a transaction is being sent is not said to be written', async () => {
    const { outbox, answer } = await opened()
    const late: Promise<unknown>[] = []
    let answerNow = () => {}
    answer('GetCommand', async (_, through) => {
      await new Promise<void>((resolve) => {
        answerNow = resolve
      })
      return through()
    })
    answer('TransactWriteCommand', async (_, through) => {
      answerNow()
      await Promise.allSettled(late)
      return through()
    })
    await outbox.transaction(async (tx) => {
      await outbox.storage.write([outcome({ append: [event('in time'), event('as well')] })], tx)
      late.push(outbox.storage.write([outcome({ append: [event('late', { fingerprint: 'x' })] })], tx))
      late[0]?.catch(() => {})
    })
    await expect(late[0]).rejects.toThrow(TransactionClosedError)
    expect((await takeDue(outbox.storage, 10, 60_000)).map(({ id }) => id).toSorted()).toEqual([
      'as well',
      'in time',
    ])
  })

  test('a write in a transaction whose question fails adds nothing at all', async () => {
    const { outbox, fail } = await opened()
    const { storage } = outbox
    const of = ({ Key }: Record<string, unknown>) => (Key as { id: string }).id === 'second'
    fail('GetCommand', awsError('ThrottlingException'), of)
    await outbox.transaction(async (tx) => {
      const named = ['first', 'second', 'third'].map((id) =>
        outcome({ append: [event(id, { fingerprint: id })] }),
      )
      await expect(storage.write(named, tx)).rejects.toMatchObject({ transient: true })
      expect(tx.collected.events.size).toBe(0)
      await storage.write([outcome({ append: [event('other')] })], tx)
    })
    expect((await takeDue(storage, 10, 60_000)).map(({ id }) => id)).toEqual(['other'])
  })
})
