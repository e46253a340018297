import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import type { Place } from './backend.ts'
import { type PlaceTest, until } from './harness.ts'
import { other } from './storage/fixtures.ts'

interface Holding {
  /** Ends the transaction. */
  release(): Promise<void>
}

/** Opens a transaction that has emitted under an id, and has not ended. */
async function holding<Tx, O>({ outbox }: Place<Tx, O>, id: string): Promise<Holding> {
  const bus = new OutboxEventBus(outbox)
  const begun = Promise.withResolvers<void>()
  const end = Promise.withResolvers<void>()
  const transaction = outbox.transaction(async () => {
    await bus.emit('held', 1, { id })
    begun.resolve()
    await end.promise
  })
  await begun.promise
  return {
    release() {
      end.resolve()
      return transaction.then(() => {})
    },
  }
}

/** An id that a transaction has written, and that others write meanwhile: nobody else waits, nobody deadlocks. */
export function heldIdContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('an id that an open transaction has written', () => {
    if (!test.traits.singleClient && !test.traits.oneWriter) {
      test('keeps strangers waiting neither when they emit nor when they are handled', async (place) => {
        const { outbox } = place
        const bus = new OutboxEventBus(outbox, { poll: { max: 20 } })
        let handled = 0
        bus.on('stranger', () => void handled++)
        const strangers = (id: string): Promise<unknown> =>
          Promise.all([
            bus.emit('stranger', 1),
            bus.emit('stranger', 2, { id }),
            bus.emitMany([
              { type: 'stranger', payload: 3 },
              { type: 'stranger', payload: 4 },
            ]),
          ])
        const held = await holding(place, 'x')
        const first = bus.emit('stranger', 0)
        const same = bus.emit('held', 1, { id: 'x' })
        await Promise.all([first, strangers('y')])
        await bus.start()
        await strangers('z')
        await until(() => handled === 9)
        await until(async () => (await place.events()).every(({ type }) => type !== 'stranger'))
        await held.release()
        await same
        await bus.stop()
        expect((await place.events()).map(({ id, type }) => `${type} ${id}`)).toEqual(['held x'])
      })
    }

    test('among others, in opposite orders by two processes, is stored once, and neither is refused', async (place) => {
      const one = new OutboxEventBus(place.outbox)
      const beside = new OutboxEventBus(await other(place, test.traits.singleClient))
      const { storage } = place.outbox
      const { write } = storage
      const orders: (readonly string[])[] = []
      storage.write = (outcomes, tx, options) => {
        orders.push(outcomes.flatMap(({ append }) => append.map(({ id }) => id)))
        return write.call(storage, outcomes, tx, options)
      }
      // Two connections of one process to a database with one writer wait for each other with the whole process.
      const rounds = test.traits.oneWriter ? 1 : 10
      for (let round = 0; round < rounds; round++) {
        const events = ['a', 'b', 'c', 'd'].map((name) => ({
          ...{ type: 'named', payload: 1 },
          id: `${name}-${round}`,
        }))
        await Promise.all([one.emitMany(events), beside.emitMany(events.toReversed())])
      }
      expect(await place.events()).toHaveLength(4 * rounds)
      for (const order of orders) expect(order).toEqual(order.toSorted())
    })
  })
}
