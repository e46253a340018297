import { ScanCommand } from '@aws-sdk/lib-dynamodb'
import { type Clock, OutboxEventBus, type Settlement, systemClock, UnknownOutcomeError } from 'outbox-core'
import { takeDue } from 'outbox-core/testing'
import { describe, expect, test } from 'vitest'
import { FaultyNetwork } from '../../../test/faults/proxy.ts'
import { serverUrl } from '../../../test/servers/provided.ts'
import { DynamoDBAwsSdkOutbox } from '../src/index.ts'
import { cleanups, completing, documentClient, event, opened, outcome, payload } from './opened.ts'

const LEASE_MS = 60_000

/** An outbox behind a network that loses answers, and another one beside it on the same tables. */
async function behindProxy(config: { maxAttempts?: number; clock?: Clock } = {}) {
  const place = await opened({ shards: 1 })
  const network = await FaultyNetwork.start(serverUrl() ?? '')
  const { maxAttempts = 3, clock = systemClock } = config
  const client = documentClient({ endpoint: network.url, maxAttempts })
  cleanups.push(async () => {
    client.destroy()
    await network.close()
  })
  const outbox = new DynamoDBAwsSdkOutbox(client, { tables: place.tables, shards: 1, logger: false, clock })
  const raw = async (kind: 'events' | 'payloads') => {
    const { Items = [] } = await place.client.send(
      new ScanCommand({ TableName: place.tables[kind], ConsistentRead: true }),
    )
    return Items.filter(({ id }) => !String(id).startsWith('outbox '))
  }
  const other = place.outbox.storage
  return {
    ...{ outbox, storage: outbox.storage, bus: new OutboxEventBus(outbox), other, tables: place.tables },
    events: () => raw('events'),
    payloads: async () => (await raw('payloads')).map(({ id }) => String(id)),
    /** Has everything that is due handled by the other one; returns how many that were. */
    async handleAll() {
      const leased = await takeDue(other, 100, LEASE_MS)
      await other.write(leased.map((lease) => completing(lease)))
      return leased.length
    },
    /** Loses the answer to the next request of that name, after `meanwhile`. */
    async losing<R>(name: string, work: () => Promise<R>, meanwhile?: () => Promise<unknown>): Promise<R> {
      let cut = false
      const cutting = network.cutAnswer(new RegExp(`DynamoDB_20120810\\.${name}\\b`), meanwhile)
      void cutting.then(() => {
        cut = true
      })
      const result = await work()
      expect(cut).toBe(true)
      return result
    },
    async leasedEvent(id = 'a') {
      await other.write([outcome({ append: [event(id)] })])
      const [leased = { id: '', attempt: 0 }] = await takeDue(other, 1, LEASE_MS)
      return leased
    },
  }
}

type Behind = Awaited<ReturnType<typeof behindProxy>>

const EMITS: [string, number, (behind: Behind) => Promise<unknown>][] = [
  ['an emit', 1, ({ bus }) => bus.emit('a', {})],
  ['an emit of many', 3, ({ bus }) => bus.emitMany([1, 2, 3].map((n) => ({ type: 'a', payload: n })))],
  ['an emit with a key', 1, ({ bus }) => bus.emit('a', {}, { key: 'k' })],
  ['an emit under an id of its own', 1, ({ bus }) => bus.emit('a', {}, { id: 'order-1' })],
  [
    'an emit in a transaction',
    1,
    ({ outbox, bus, tables }) =>
      outbox.transaction(async (tx) => {
        tx.put({ TableName: tables.payloads, Item: { id: 'mine' } })
        await bus.emit('a', {})
      }),
  ],
]

describe.skipIf(serverUrl() === undefined)('DynamoDB, sent again by the driver', () => {
  test.each(EMITS)('%s that was handled meanwhile is not stored again', async (_, count, emit) => {
    const behind = await behindProxy()
    let handled = 0
    const handle = async () => {
      handled += await behind.handleAll()
    }
    await behind.losing('TransactWriteItems', () => emit(behind), handle)
    await handle()
    expect(handled).toBe(count)
    expect(await behind.events()).toEqual([])
  })

  test('a step that was written and whose next event was handled meanwhile is applied once', async () => {
    const behind = await behindProxy()
    const leased = await behind.leasedEvent()
    const step = completing(leased, {
      append: [event('next')],
      put: [payload('new', Uint8Array.of(1))],
      remove: ['old'],
    })
    const meanwhile = async () => expect(await behind.handleAll()).toBe(1)
    const results = await behind.losing('TransactWriteItems', () => behind.storage.write([step]), meanwhile)
    expect(results).toEqual([{ status: 'applied' }])
    expect(await behind.events()).toEqual([])
    expect(await behind.payloads()).toEqual(['new'])
  })

  test('an event with a key is settled once, and what was behind it is handled once', async () => {
    const behind = await behindProxy()
    const [first, second, third] = ['1', '2', '3'].map((id) => event(id, { key: 'k' }))
    if (!first || !second || !third) throw new Error('three')
    await behind.other.write([outcome({ append: [first, second] })])
    const [leased = { id: '', attempt: 0 }] = await takeDue(behind.storage, 1, LEASE_MS)
    const settle = () => behind.storage.write([completing(leased)])
    const meanwhile = async () => {
      expect(await behind.handleAll()).toBe(1)
      await behind.other.write([outcome({ append: [third] })])
    }
    expect(await behind.losing('TransactWriteItems', settle, meanwhile)).toEqual([{ status: 'applied' }])
    expect(await behind.events()).toMatchObject([{ id: '3', state: 'waiting', place: 1 }])
    expect(await behind.handleAll()).toBe(1)
    expect(await behind.events()).toEqual([])
  })

  test.each<[string, string, (lease: { id: string; attempt: number }) => Settlement, object[]]>([
    ['completed', 'DeleteItem', (lease) => ({ ...lease, kind: 'complete', keepMs: 0 }), []],
    [
      'completed and kept',
      'UpdateItem',
      (lease) => ({ ...lease, kind: 'complete', keepMs: 60_000 }),
      [{ id: 'a', state: 'done', attempt: 1 }],
    ],
    [
      'retried',
      'UpdateItem',
      (lease) => ({ ...lease, kind: 'retry', delayMs: 60_000, error: 'x', counted: false }),
      [{ id: 'a', state: 'waiting', attempt: 1, uncounted: 1 }],
    ],
    [
      'buried',
      'UpdateItem',
      (lease) => ({ ...lease, kind: 'bury', error: 'x' }),
      [{ id: 'a', state: 'dead', attempt: 1 }],
    ],
  ])('an event that is %s is settled once, and known to be', async (_, name, settle, expected) => {
    const behind = await behindProxy()
    const { id, attempt } = await behind.leasedEvent()
    const settling = outcome({ settle: settle({ id, attempt }) })
    const results = await behind.losing(name, () => behind.storage.write([settling]))
    expect(results).toEqual([{ status: 'applied' }])
    expect(await behind.events()).toMatchObject(expected)
  })

  test('an event given back that another worker has taken meanwhile stays with it', async () => {
    const behind = await behindProxy()
    const { id, attempt } = await behind.leasedEvent()
    const giving = outcome({
      settle: { id, attempt, kind: 'retry', delayMs: 0, error: null, counted: false },
    })
    const taken = async () => expect(await takeDue(behind.other, 1, LEASE_MS)).toHaveLength(1)
    const results = await behind.losing('UpdateItem', () => behind.storage.write([giving]), taken)
    expect(results).toEqual([{ status: 'applied' }])
    expect(await behind.events()).toMatchObject([{ id: 'a', state: 'leased', attempt: 2, uncounted: 1 }])
  })

  test('a lease that went to another is lost, whichever answer is', async () => {
    const behind = await behindProxy()
    const { id } = await behind.leasedEvent()
    for (const kind of ['complete', 'bury'] as const) {
      const stale = outcome({ settle: { id, attempt: 7, kind, keepMs: 0, error: 'x' } as Settlement })
      const name = kind === 'complete' ? 'DeleteItem' : 'UpdateItem'
      const results = await behind.losing(name, () => behind.storage.write([stale]))
      expect(results).toEqual([{ status: 'lost' }])
    }
    expect(await behind.events()).toMatchObject([{ id: 'a', state: 'leased', attempt: 1 }])
  })

  test('a lease is held by the one who asked for it, and its attempt counted once', async () => {
    const behind = await behindProxy()
    await behind.other.write([outcome({ append: [event('a')] })])
    const leased = await behind.losing('UpdateItem', () => takeDue(behind.storage, 1, LEASE_MS))
    expect(leased).toMatchObject([{ id: 'a', type: 'a', body: '{}', headers: {}, attempt: 1 }])
    expect(await behind.losing('UpdateItem', () => behind.storage.extend(leased, LEASE_MS))).toEqual([])
    expect(await behind.events()).toMatchObject([{ id: 'a', state: 'leased', attempt: 1 }])
  })

  test('an event that another worker has taken after a lease of ours ran out is not handed out', async () => {
    const behind = await behindProxy()
    await behind.other.write([outcome({ append: [event('a')] })])
    const taken = async () => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(await takeDue(behind.other, 1, LEASE_MS)).toHaveLength(1)
    }
    expect(await behind.losing('UpdateItem', () => takeDue(behind.storage, 1, 1), taken)).toEqual([])
    expect(await behind.events()).toMatchObject([{ id: 'a', state: 'leased', attempt: 2 }])
  })

  test('dead letters are revived and discarded once, and counted', async () => {
    const behind = await behindProxy()
    const { deadLetters } = behind.outbox
    for (const id of ['a', 'b']) {
      const { attempt } = await behind.leasedEvent(id)
      await behind.other.write([outcome({ settle: { id, attempt, kind: 'bury', error: 'x' } })])
    }
    expect(await behind.losing('UpdateItem', () => deadLetters.retry(['a']))).toBe(1)
    expect(await behind.losing('DeleteItem', () => deadLetters.discard(['b']))).toBe(1)
    expect(await behind.events()).toMatchObject([{ id: 'a', state: 'waiting', attempt: 1, uncounted: 1 }])
  })

  test('a payload that was removed meanwhile does not come back, one put anew is not removed', async () => {
    const behind = await behindProxy()
    const put = outcome({ put: [payload('claim', Uint8Array.of(1))] })
    const remove = outcome({ remove: ['claim'] })
    const write = () => behind.storage.write([put])
    await behind.losing('TransactWriteItems', write, () => behind.other.write([remove]))
    expect(await behind.payloads()).toEqual([])
    await behind.other.write([put])
    const removing = () => behind.storage.write([remove])
    await behind.losing('TransactWriteItems', removing, () => behind.other.write([put]))
    expect(await behind.payloads()).toEqual(['claim'])
  })

  test('what is purged is counted', async () => {
    const behind = await behindProxy()
    const lease = await behind.leasedEvent()
    await behind.other.write([
      completing(lease, {}, 1),
      outcome({ put: [payload('old', Uint8Array.of(1), 1)] }),
    ])
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect((await behind.losing('DeleteItem', () => behind.storage.purge(10))).events).toBe(1)
    expect(await behind.events()).toEqual([])
  })

  test('not sent again, an emit is of unknown outcome, and a settlement that core repeats knows itself', async () => {
    const behind = await behindProxy({ maxAttempts: 1 })
    const emitting = behind.losing('TransactWriteItems', () =>
      behind.bus.emit('a', {}).catch((error) => error),
    )
    expect(await emitting).toBeInstanceOf(UnknownOutcomeError)
    const [leased = { id: '', attempt: 0 }] = await takeDue(behind.other, 1, LEASE_MS)
    const settling = completing(leased)
    const failed = () => behind.storage.write([settling]).catch((error) => error)
    expect(await behind.losing('DeleteItem', failed)).toBeInstanceOf(UnknownOutcomeError)
    expect(await behind.storage.write([settling])).toEqual([{ status: 'applied' }])
    expect(await behind.storage.write([completing(leased)])).toEqual([{ status: 'lost' }])
  })

  test.each(['complete', 'keep', 'skip'] as const)(
    'not sent again, one with a key knows itself as well: %s',
    async (kind) => {
      const behind = await behindProxy({ maxAttempts: 1 })
      await behind.other.write([outcome({ append: ['1', '2'].map((id) => event(id, { key: 'k' })) })])
      const [leased = { id: '', attempt: 0 }] = await takeDue(behind.storage, 1, LEASE_MS)
      const settling =
        kind === 'skip'
          ? outcome({ settle: { ...leased, kind: 'bury', error: 'x', skip: true } })
          : completing(leased, {}, kind === 'keep' ? 60_000 : 0)
      const failed = () => behind.storage.write([settling]).catch((error) => error)
      expect(await behind.losing('TransactWriteItems', failed)).toBeInstanceOf(UnknownOutcomeError)
      expect(await behind.storage.write([settling])).toEqual([{ status: 'applied' }])
      expect(await behind.storage.write([completing(leased)])).toEqual([{ status: 'lost' }])
      expect(await behind.handleAll()).toBe(1)
    },
  )

  test('nothing is sent again after DynamoDB has forgotten its token', async () => {
    let late = 0
    const clock = { ...systemClock, now: () => systemClock.now() + late }
    const behind = await behindProxy({ clock })
    const asleep = async () => {
      expect(await behind.handleAll()).toBe(1)
      late = 10 * 60_000
    }
    const emitting = () => behind.bus.emit('a', {}).catch((error) => error)
    expect(await behind.losing('TransactWriteItems', emitting, asleep)).toBeInstanceOf(UnknownOutcomeError)
    expect(await behind.events()).toEqual([])
  })
})
