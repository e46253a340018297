import { describe, expect } from 'vitest'
import { OutboxEventBus } from '../bus.ts'
import type { Place } from './backend.ts'
import { type PlaceTest, sleep, until } from './harness.ts'

class Inner extends Error {}

/**
 * A transaction inside another one is a part of it. When it fails and that is caught, it alone is gone, where the
 * database can take a part back; where it can't, the outer one can't commit any more.
 */
export function nestedTransactionContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  const opened = (place: Place<Tx, O>) => {
    const { outbox } = place
    const bus = new OutboxEventBus(outbox)
    const store = outbox.sagaStore('1h')
    /** A row, an event and a payload of one name. */
    const write = async (tx: Tx, name: string): Promise<void> => {
      await place.writeBusinessRow(tx, name)
      await bus.emit(name, {})
      await store.put(name, Uint8Array.of(1))
    }
    const written = async () => ({
      rows: [...(await place.businessRows())].sort(),
      events: (await place.events()).map(({ type }) => type).sort(),
      payloads: (await place.payloads()).map(({ id }) => id).sort(),
    })
    const failing = (name: string): Promise<never> =>
      outbox.transaction(async (tx) => {
        await write(tx, name)
        throw new Inner(name)
      })
    /** What has to be there when a nested one has failed and `names` are what was written around it. */
    const expectKept = async (committing: Promise<unknown>, ...names: string[]): Promise<void> => {
      if (outbox.storage.nested) {
        await committing
        expect(await written()).toEqual({ rows: names, events: names, payloads: names })
      } else {
        await expect(committing).rejects.toMatchObject({
          code: 'OUTBOX_NESTED_TRANSACTION',
          cause: expect.any(Inner),
        })
        expect(await written()).toEqual({ rows: [], events: [], payloads: [] })
      }
    }
    return { outbox, bus, write, written, failing, expectKept }
  }

  describe('a nested transaction', () => {
    test('that fails and is caught is gone alone, or nothing can be committed', async (place) => {
      const { outbox, write, failing, expectKept } = opened(place)
      const committing = outbox.transaction(async (tx) => {
        await write(tx, 'a')
        await expect(failing('inner')).rejects.toThrow(Inner)
        await write(tx, 'b')
      })
      await expectKept(committing, 'a', 'b')
    })

    test('that succeeds is committed with the outer one, and rolled back with it', async (place) => {
      const { outbox, write, written } = opened(place)
      const both = (name: string) =>
        outbox.transaction(async (tx) => {
          const result = await outbox.transaction(async (inner) => {
            expect(inner).toBe(tx)
            await write(inner, `${name}-in`)
            return 'done'
          })
          expect(result).toBe('done')
          await write(tx, `${name}-out`)
          if (name === 'b') throw new Error('no')
        })
      await both('a')
      await expect(both('b')).rejects.toThrow('no')
      const names = ['a-in', 'a-out']
      expect(await written()).toEqual({ rows: names, events: names, payloads: names })
    })

    test('that succeeds, inside one that fails and is caught, is gone with it', async (place) => {
      const { outbox, write, expectKept } = opened(place)
      const committing = outbox.transaction(async (tx) => {
        await write(tx, 'a')
        const middle = outbox.transaction(async (inner) => {
          await outbox.transaction((innermost) => write(innermost, 'innermost'))
          await write(inner, 'middle')
          throw new Inner('middle')
        })
        await expect(middle).rejects.toThrow(Inner)
      })
      await expectKept(committing, 'a')
    })

    test('that fails and is not caught takes the outer one with it', async (place) => {
      const { outbox, write, written, failing } = opened(place)
      const committing = outbox.transaction(async (tx) => {
        await write(tx, 'a')
        await failing('inner')
      })
      await expect(committing).rejects.toThrow(Inner)
      const unawaited = outbox.transaction(async (tx) => {
        await write(tx, 'a')
        void failing('inner')
      })
      await expect(unawaited).rejects.toThrow(Inner)
      expect(await written()).toEqual({ rows: [], events: [], payloads: [] })
    })

    test('beside another one: each is a part of its own', async (place) => {
      const { outbox, write, written, failing, expectKept } = opened(place)
      await outbox.transaction(() =>
        Promise.all(['a', 'b', 'c'].map((name) => outbox.transaction((tx) => write(tx, name)))),
      )
      const names = ['a', 'b', 'c']
      expect(await written()).toEqual({ rows: names, events: names, payloads: names })
      if (!outbox.storage.nested) return
      const committing = outbox.transaction(() =>
        Promise.allSettled([
          failing('first'),
          outbox.transaction((tx) => write(tx, 'd')),
          failing('second'),
          outbox.transaction((tx) => write(tx, 'e')),
        ]),
      )
      await expectKept(committing, 'a', 'b', 'c', 'd', 'e')
    })

    test('that is rolled back takes nothing with it that others emit meanwhile', async (place) => {
      const { outbox, bus, failing } = opened(place)
      if (!outbox.storage.nested) return
      await outbox.transaction(async (tx) => {
        const open = Promise.withResolvers<void>()
        const inner = outbox.transaction(async () => {
          await bus.emit('inner', {})
          open.resolve()
          await sleep(10)
          throw new Inner('no')
        })
        await open.promise
        const others = [
          bus.emit('beside', {}),
          bus.emit('explicit', {}, { transaction: tx }),
          outbox.enlist(tx, () => bus.emit('enlisted', {})),
          outbox.sagaStore('1h').put('beside', Uint8Array.of(1)),
        ]
        await Promise.allSettled([inner, failing('another')])
        await Promise.all(others)
      })
      expect((await place.events()).map(({ type }) => type).sort()).toEqual([
        'beside',
        'enlisted',
        'explicit',
      ])
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['beside'])
    })

    test('is failed by an emit in it that was refused and nobody handled, and only it', async (place) => {
      const { outbox, bus, written } = opened(place)
      if (!outbox.storage.nested) return
      await outbox.transaction(async () => {
        await bus.emit('a', {})
        const inner = outbox.transaction(async () => {
          await bus.emit('inner', {})
          void bus.emit('bad', { big: 1n })
        })
        await expect(inner).rejects.toMatchObject({ code: 'OUTBOX_NOT_SERIALIZABLE' })
      })
      expect((await written()).events).toEqual(['a'])
    })

    test('is waited for by the outer one, and closed when it has ended', async (place) => {
      const { outbox, bus, written } = opened(place)
      let late: Promise<unknown> = Promise.resolve()
      await outbox.transaction(async () => {
        const ended = Promise.withResolvers<void>()
        await outbox.transaction(() => {
          late = ended.promise.then(() => bus.emit('late', {}))
          late.catch(() => {})
        })
        void outbox.transaction(async () => {
          await sleep(5)
          await bus.emit('unawaited', {})
        })
        ended.resolve()
        await late.catch(() => {})
      })
      await expect(late).rejects.toMatchObject({ code: 'OUTBOX_TRANSACTION_CLOSED' })
      expect((await written()).events).toEqual(['unawaited'])
    })

    test('wakes the workers after the commit, as the outer one does', async ({ outbox }) => {
      const seen: string[] = []
      const bus = new OutboxEventBus(outbox, { poll: { min: '10m', max: '10m' } })
      bus.on('inner', () => void seen.push('inner'))
      await bus.start()
      await outbox.transaction(() => outbox.transaction(() => bus.emit('inner', {})))
      await until(() => seen.length === 1)
      await bus.stop()
    })

    test('is possible in a transaction of the user’s own', async (place) => {
      const { outbox, write, written, failing } = opened(place)
      await place
        .ownTransaction(async (tx) => {
          const joined = outbox.enlist(tx, async () => {
            await write(tx, 'a')
            await failing('inner').catch(() => {})
            await outbox.transaction((inner) => write(inner, 'b'))
          })
          if (outbox.storage.nested) return joined
          // What the outbox can't take back, its caller has to: by not committing.
          await expect(joined).rejects.toMatchObject({ code: 'OUTBOX_NESTED_TRANSACTION' })
          throw new Inner('no')
        })
        .catch((error: unknown) => expect(error).toBeInstanceOf(Inner))
      const names = outbox.storage.nested ? ['a', 'b'] : []
      expect(await written()).toEqual({ rows: names, events: names, payloads: names })
    })
  })
}
