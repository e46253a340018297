import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { Outbox } from '../outbox.ts'
import { activity } from '../saga/activity.ts'
import { SagaEngine } from '../saga/engine.ts'
import { routingSlip } from '../saga/routing-slip.ts'
import { newEvent, type PlaceTest, sleep } from './harness.ts'
import { inState } from './storage/fixtures.ts'

const MISSING = { code: 'OUTBOX_TRANSACTION_MISSING' }
const FOREIGN = { code: 'OUTBOX_FOREIGN_TRANSACTION' }
const OPEN = { code: 'OUTBOX_TRANSACTION_OPEN' }

/** Another outbox on the same client. */
class Twin<Tx, O> extends Outbox<Tx, O> {
  constructor({ storage }: Outbox<Tx, O>) {
    super(storage, { logger: false })
  }
}

/** Which transaction a call belongs to: it takes part in it or is refused at once, and never leaves it without a word. */
export function joinedContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('an explicit transaction', () => {
    test('given many times at once is one, in which one write follows the other', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const { write } = outbox.storage
      let running = 0
      let most = 0
      outbox.storage.write = async (...call) => {
        most = Math.max(most, ++running)
        await sleep(1)
        try {
          return await write.apply(outbox.storage, call)
        } finally {
          running--
        }
      }
      const many = (transaction: Tx): Promise<unknown> =>
        Promise.all([
          ...Array.from({ length: 8 }, (_, n) => bus.emit('many', { n }, { transaction })),
          bus.emitMany([{ type: 'many', payload: 8 }], { transaction }),
          outbox.sagaStore('1h').put('many', Uint8Array.of(1), undefined, { transaction }),
        ])
      await place.ownTransaction(async (tx) => void (await many(tx)))
      await outbox.transaction((tx) => outbox.detached(() => many(tx)))
      expect(most).toBe(1)
      expect(await place.events()).toHaveLength(18)
      const failing = place.ownTransaction(async (tx) => {
        await many(tx)
        throw new Error('rollback')
      })
      await expect(failing).rejects.toThrow('rollback')
      expect(await place.events()).toHaveLength(18)
    })

    test('of the user’s own wakes the workers soon after its commit', async (place) => {
      const bus = new OutboxEventBus(place.outbox, { poll: { min: '10m', max: '10m' } })
      let handled = 0
      bus.on('woken', () => void handled++)
      await bus.start()
      // A commit that takes very long is not looked for any more: on a busy machine one may be.
      for (let turn = 0; turn < 5 && handled === 0; turn++) {
        await place.ownTransaction(async (transaction) => {
          await Promise.all([1, 2, 3].map((n) => bus.emit('woken', { n }, { transaction })))
        })
        for (let waited = 0; waited < 100 && handled === 0; waited++) await sleep(10)
      }
      await bus.stop()
      expect(handled).toBeGreaterThan(0)
    })
  })

  describe('with requireTransaction', () => {
    test('an emit outside any is refused, for all types or for some, and a slip as well', async (place) => {
      const { outbox } = place
      const strict = new OutboxEventBus(outbox, { requireTransaction: true })
      const partly = new OutboxEventBus(outbox, { requireTransaction: ['strict', 'saga.step'] })
      const step = activity('step', { execute: (_: object) => {} })
      const engine = new SagaEngine({ bus: partly, store: outbox.sagaStore('1d'), activities: [step] })
      const slip = routingSlip('test').add(step, {})
      await expect(strict.emit('a', {})).rejects.toMatchObject(MISSING)
      await expect(strict.emitMany([{ type: 'a', payload: {} }])).rejects.toMatchObject(MISSING)
      await expect(partly.emit('strict', {})).rejects.toMatchObject(MISSING)
      await expect(
        partly.emitMany([
          { type: 'free', payload: {} },
          { type: 'strict', payload: {} },
        ]),
      ).rejects.toMatchObject(MISSING)
      await expect(engine.emit(slip)).rejects.toMatchObject(MISSING)
      const inside = outbox.transaction(() => outbox.detached(() => strict.emit('a', {})))
      await expect(inside).rejects.toMatchObject(MISSING)
      expect(await place.events()).toEqual([])
      await partly.emit('free', {})
      await outbox.transaction(async () => {
        await strict.emit('a', {})
        await engine.emit(slip)
      })
      await place.ownTransaction(async (tx) => {
        await partly.emit('strict', {}, { transaction: tx })
        await outbox.enlist(tx, () => strict.emit('b', {}))
      })
      const types = (await place.events()).map(({ type }) => type).sort()
      expect(types).toEqual(['a', 'b', 'free', 'saga.step', 'strict'])
    })

    test('what a handler emits, and the steps of a slip, need none of their own', async (place) => {
      const bus = new OutboxEventBus(place.outbox, { requireTransaction: true, poll: { max: 50 } })
      const step = activity('step', { execute: (_: object) => {} })
      const engine = new SagaEngine({ bus, store: place.outbox.sagaStore('1d'), activities: [step] })
      bus.on('work', (_, { emit }) => emit('next', {}))
      bus.on('next', () => {})
      bus.on('saga.completed', () => {})
      await bus.start()
      await Promise.all([
        place.outbox.transaction(async () => {
          await bus.emit('work', {})
          await engine.emit(routingSlip('test').add(step, {}).add(step, {}))
        }),
        bus.waitFor('next'),
        bus.waitFor('saga.completed'),
      ])
      await bus.stop()
      expect(await place.events()).toEqual([])
    })
  })

  describe('another outbox on the same client', () => {
    test('leaves no transaction without a word: it is refused, unless it is told to join or to stay out', async (place) => {
      const { outbox } = place
      const twin = new Twin(outbox)
      const [bus, other] = [new OutboxEventBus(outbox), new OutboxEventBus(twin)]
      const detached: Promise<unknown>[] = []
      await outbox.transaction(async (tx) => {
        await expect(other.emit('left', {})).rejects.toMatchObject(FOREIGN)
        await expect(other.emitMany([{ type: 'left', payload: {} }])).rejects.toMatchObject(FOREIGN)
        await expect(twin.sagaStore('1h').put('left', Uint8Array.of(1))).rejects.toMatchObject(FOREIGN)
        await expect(twin.transaction(() => {})).rejects.toMatchObject(FOREIGN)
        await expect(twin.deadLetters.list()).rejects.toMatchObject(FOREIGN)
        await expect(twin.deadLetters.discard({ all: true })).rejects.toMatchObject(FOREIGN)
        await expect(twin.stats()).rejects.toMatchObject(FOREIGN)
        await other.emit('joined', {}, { transaction: tx })
        await twin.enlist(tx, async () => {
          await other.emit('enlisted', {})
          // And around that, the first one is found again.
          await bus.emit('own', {})
        })
        // On SQLite it waits for the end.
        detached.push(twin.detached(() => other.emit('detached', {})))
      })
      await Promise.all(detached)
      const types = (await place.events()).map(({ type }) => type).sort()
      expect(types).toEqual(['detached', 'enlisted', 'joined', 'own'])
    })

    test('loses what it joined with the transaction, and keeps what was detached', async (place) => {
      const { outbox } = place
      const other = new OutboxEventBus(new Twin(outbox))
      const detached: Promise<unknown>[] = []
      const failing = outbox.transaction(async (tx) => {
        await other.emit('joined', {}, { transaction: tx })
        detached.push(outbox.detached(() => other.emit('detached', {})))
        throw new Error('rollback')
      })
      await expect(failing).rejects.toThrow('rollback')
      await Promise.all(detached)
      expect((await place.events()).map(({ type }) => type)).toEqual(['detached'])
    })
  })

  describe('inside a transaction', () => {
    test('dead letters are retried and discarded as a part of it', async (place) => {
      const { outbox } = place
      const retried = await inState(place, 'dead')
      const discarded = await inState(place, 'dead', newEvent({ type: 'other' }))
      const change = async (): Promise<void> => {
        expect(await outbox.deadLetters.retry(retried.id)).toBe(1)
        expect(await outbox.deadLetters.discard({ all: true, type: 'other' })).toBe(1)
      }
      const failing = outbox.transaction(async () => {
        await change()
        throw new Error('rollback')
      })
      await expect(failing).rejects.toThrow('rollback')
      expect((await place.events()).map(({ state }) => state)).toEqual(['dead', 'dead'])
      await outbox.transaction(change)
      expect(await place.events()).toMatchObject([{ id: retried.id, state: 'waiting' }])
      expect(discarded.id).not.toBe(retried.id)
    })

    test('dead letters and counts are read without waiting for what it has changed itself', async (place) => {
      const { outbox } = place
      const { id } = await inState(place, 'dead')
      const bus = new OutboxEventBus(outbox)
      await outbox.transaction(async () => {
        await bus.emit('a', {})
        await outbox.deadLetters.retry(id)
        const { letters } = await outbox.deadLetters.list()
        const { dead, due } = await outbox.stats()
        // As the transaction sees it, or as it is committed; not half.
        expect([letters.length, dead, due]).toEqual(dead === 0 ? [0, 0, 2] : [1, 1, 0])
      })
      expect(await outbox.stats()).toMatchObject({ dead: 0, due: 2 })
    })

    test('what can’t be a part of it is refused at once', async (place) => {
      const { outbox } = place
      const store = outbox.sagaStore('1h')
      await outbox.transaction(async () => {
        await expect(store.cleanup()).rejects.toMatchObject(OPEN)
        await expect(store.initialize()).rejects.toMatchObject(OPEN)
        await expect(outbox.initialize()).rejects.toMatchObject(OPEN)
      })
      await place.ownTransaction(async (tx) => {
        await place.writeBusinessRow(tx, 'row')
        await outbox.enlist(tx, () => expect(outbox.initialize()).rejects.toMatchObject(OPEN))
      })
      expect(await store.cleanup()).toBe(0)
      await outbox.initialize()
    })
  })
}
