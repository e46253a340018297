import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import { TransactionClosedError } from '../errors.ts'
import { type PlaceTest, sleep, text } from './harness.ts'

class Rollback extends Error {}

/** Events, payloads and the user's own rows: together or not at all. */
export function transactionContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('transaction', () => {
    test('commits event, payload and business row together', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const store = outbox.sagaStore('1h')
      const result = await outbox.transaction(async (tx) => {
        await place.writeBusinessRow(tx, 'order-1')
        await bus.emit('order.placed', { id: 1 })
        await store.put('claim', Uint8Array.of(1, 2, 3))
        expect(text(await store.get('claim'))).toBe('\u0001\u0002\u0003')
        return 'done'
      })
      expect(result).toBe('done')
      expect(await place.businessRows()).toEqual(['order-1'])
      expect(await place.events()).toMatchObject([{ type: 'order.placed', body: '{"id":1}' }])
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['claim'])
    })

    test('leaves nothing behind after a rollback', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const store = outbox.sagaStore('1h')
      await store.put('kept', Uint8Array.of(1))
      const failing = outbox.transaction(async (tx) => {
        await place.writeBusinessRow(tx, 'order-1')
        await bus.emitMany([
          { type: 'a', payload: 1 },
          { type: 'b', payload: 2 },
        ])
        await store.put('claim', Uint8Array.of(1))
        await store.delete('kept')
        expect(await store.get('kept')).toBeUndefined()
        throw new Rollback('no')
      })
      await expect(failing).rejects.toThrow(Rollback)
      expect(await place.businessRows()).toEqual([])
      expect(await place.events()).toEqual([])
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['kept'])
    })

    test('waits for what the callback forgot to await, and fails with it', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      await outbox.transaction(async () => {
        void bus.emit('forgotten', {})
      })
      expect(await place.events()).toMatchObject([{ type: 'forgotten' }])
      const failing = outbox.transaction(async (tx) => {
        await place.writeBusinessRow(tx, 'order-1')
        bus.emit('bad', { big: 1n }).catch(() => {})
        await sleep(1)
      })
      await expect(failing).resolves.toBeUndefined()
      const unawaited = outbox.transaction(async (tx) => {
        await place.writeBusinessRow(tx, 'order-2')
        void bus.emit('bad', { big: 1n })
      })
      await expect(unawaited).rejects.toMatchObject({ code: 'OUTBOX_NOT_SERIALIZABLE' })
      expect(await place.businessRows()).toEqual(['order-1'])
    })

    test('joins when nested, and rolls everything back together', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      await outbox.transaction(async (outer) => {
        await bus.emit('outer', {})
        await outbox.transaction(async (inner) => {
          expect(inner).toBe(outer)
          await bus.emit('inner', {})
        })
        await outbox.enlist(outer, async () => bus.emit('enlisted', {}))
      })
      expect((await place.events()).map(({ type }) => type).sort()).toEqual(['enlisted', 'inner', 'outer'])
      const failing = outbox.transaction(async () => {
        await outbox.transaction(async () => bus.emit('lost', {}))
        throw new Rollback('no')
      })
      await expect(failing).rejects.toThrow(Rollback)
      expect(await place.events()).toHaveLength(3)
    })

    test('an explicit transaction is taken where there is no ambient one', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      let handle: Tx | undefined
      await outbox.transaction(async (tx) => {
        handle = tx
        await outbox.detached(() => bus.emit('explicit', {}, { transaction: tx }))
        await outbox.detached(() =>
          outbox.sagaStore('1h').put('claim', Uint8Array.of(1), undefined, { transaction: tx }),
        )
      })
      expect(handle).toBeDefined()
      expect(await place.events()).toMatchObject([{ type: 'explicit' }])
      expect(await place.payloads()).toHaveLength(1)
      const failing = outbox.transaction(async (tx) => {
        await outbox.detached(() => bus.emit('gone', {}, { transaction: tx }))
        throw new Rollback('no')
      })
      await expect(failing).rejects.toThrow(Rollback)
      expect(await place.events()).toHaveLength(1)
    })

    test('null is no transaction, and nothing is written without one', async ({
      outbox,
      events,
      payloads,
    }) => {
      const bus = new OutboxEventBus(outbox)
      const none = { transaction: null as Tx }
      const missing = { code: 'OUTBOX_TRANSACTION_MISSING' }
      await expect(bus.emit('a', {}, none)).rejects.toMatchObject(missing)
      await expect(bus.emitMany([{ type: 'a', payload: {} }], none)).rejects.toMatchObject(missing)
      const put = outbox.sagaStore('1h').put('claim', Uint8Array.of(1), undefined, none)
      await expect(put).rejects.toMatchObject(missing)
      expect([await events(), await payloads()]).toEqual([[], []])
    })

    test('refuses late use instead of writing outside', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const store = outbox.sagaStore('1h')
      let late: Promise<unknown>[] = []
      let handle: Tx | undefined
      let release = (): void => {}
      const released = new Promise<void>((resolve) => {
        release = resolve
      })
      await outbox.transaction(async (tx) => {
        handle = tx
        late = [
          released.then(() => bus.emit('late', {})),
          released.then(() => store.put('late', Uint8Array.of(1))),
          released.then(() => store.get('late')),
          released.then(() => outbox.transaction(async () => {})),
        ]
        for (const promise of late) promise.catch(() => {})
      })
      release()
      for (const promise of late) await expect(promise).rejects.toThrow(TransactionClosedError)
      await expect(bus.emit('late', {}, { transaction: handle as Tx })).rejects.toThrow(/OUTBOX|transaction/)
      expect(await place.events()).toEqual([])
      expect(await place.payloads()).toEqual([])
    })

    test('enlists in a transaction that the user began, and vanishes with it', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const store = outbox.sagaStore('1h')
      await place.ownTransaction(async (tx) => {
        await place.writeBusinessRow(tx, 'order-1')
        await outbox.enlist(tx, async () => {
          await bus.emit('enlisted', {})
          await store.put('claim', Uint8Array.of(1))
        })
      })
      expect(await place.businessRows()).toEqual(['order-1'])
      expect(await place.events()).toMatchObject([{ type: 'enlisted' }])
      expect(await place.payloads()).toHaveLength(1)
      const failing = place.ownTransaction(async (tx) => {
        await outbox.enlist(tx, async () => {
          await place.writeBusinessRow(tx, 'order-2')
          await bus.emit('gone', {})
          await store.put('gone', Uint8Array.of(1))
        })
        throw new Rollback('no')
      })
      await expect(failing).rejects.toThrow(Rollback)
      expect(await place.businessRows()).toEqual(['order-1'])
      expect(await place.events()).toHaveLength(1)
      expect(await place.payloads()).toHaveLength(1)
    })

    test('two enlisted calls side by side end together', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      await place.ownTransaction(async (tx) => {
        const long = Promise.withResolvers<void>()
        const short = outbox.enlist(tx, () => bus.emit('short', {}))
        const other = outbox.enlist(tx, async () => {
          await long.promise
          await bus.emit('long', {})
        })
        // As long as the first would take, were it alone.
        await Promise.race([short, sleep(50)])
        long.resolve()
        await Promise.all([short, other])
      })
      expect((await place.events()).map(({ type }) => type).toSorted()).toEqual(['long', 'short'])
    })

    test('refuses what is no transaction of this outbox', async ({ outbox }) => {
      for (const nonsense of [{}, () => {}]) {
        await expect(outbox.enlist(nonsense as Tx, async () => {})).rejects.toMatchObject({
          code: expect.stringMatching(/^OUTBOX_(FOREIGN_TRANSACTION|TRANSACTION_MISSING)$/),
        })
      }
    })

    test('keeps many interleaved transactions apart', async (place) => {
      const { outbox } = place
      const bus = new OutboxEventBus(outbox)
      const outcomes = await Promise.allSettled(
        Array.from({ length: 40 }, (_, index) =>
          outbox.transaction(async (tx) => {
            await place.writeBusinessRow(tx, `row-${index}`)
            await sleep(index % 3)
            await bus.emit('numbered', { index })
            if (index % 4 === 0) throw new Rollback('no')
          }),
        ),
      )
      const kept = Array.from({ length: 40 }, (_, index) => index).filter((index) => index % 4 !== 0)
      expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(kept.length)
      const byNumber = (a: number, b: number): number => a - b
      const rows = (await place.businessRows()).map((key) => Number(key.slice(4))).sort(byNumber)
      const events = (await place.events()).map(({ body }) => JSON.parse(body).index as number).sort(byNumber)
      expect(rows).toEqual(kept)
      expect(events).toEqual(kept)
    })

    test('initialize can be repeated, also by several processes at once', async (place) => {
      await place.outbox.initialize()
      const siblings = test.traits.singleClient
        ? [place.outbox]
        : [await place.sibling(), await place.sibling()]
      await Promise.all(siblings.map((outbox) => outbox.initialize()))
      await new OutboxEventBus(place.outbox).emit('still.works', {})
      expect(await place.events()).toHaveLength(1)
    })

    test('opens no connection of its own', async (place) => {
      const before = await place.connections()
      const bus = new OutboxEventBus(place.outbox)
      await bus.start()
      await place.outbox.transaction(async () => {
        await bus.emit('a', {})
        await place.outbox.sagaStore('1h').put('claim', Uint8Array.of(1))
      })
      await bus.stop()
      expect(await place.connections()).toBe(before)
    })

    test('close leaves the user’s client open', async (place) => {
      await new OutboxEventBus(place.outbox).emit('a', {})
      await place.outbox.close()
      await place.outbox.close()
      await place.ownTransaction(async (tx) => {
        await place.writeBusinessRow(tx, 'after-close')
      })
      expect(await place.businessRows()).toEqual(['after-close'])
    })
  })
}
