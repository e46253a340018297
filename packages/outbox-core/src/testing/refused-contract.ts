import { describe, expect } from 'vitest'
import type { Outcome } from '../storage.ts'
import { busOn } from './bus-fixtures.ts'
import { failingWrites, refusal } from './failing.ts'
import { type PlaceTest, recordingLogger, takeDue, until } from './harness.ts'
import { rawEvent } from './storage/fixtures.ts'

type Settled = Outcome['settle']

/** Outcomes that the database takes at no time: they have an end, and nobody waits behind them. */
export function refusedContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  /** A bus among whose events is one whose settlement the database refuses, and how often it has. */
  const withRefused = async (
    place: Parameters<Parameters<typeof test>[1]>[0],
    refuses: (settle: NonNullable<Settled>) => boolean,
  ) => {
    const bus = busOn(place.outbox)
    const seen: number[] = []
    bus.on('work', async ({ payload }, { emit }) => {
      seen.push(payload.n)
      if (payload.n === 2) await emit('other', { n: 2 })
    })
    const ids = await bus.emitMany([1, 2, 3].map((n) => ({ type: 'work', payload: { n } })))
    const id = ids[1] as string
    let refusals = 0
    failingWrites(place.outbox.storage, ({ settle }) => {
      if (settle?.id !== id || !refuses(settle)) return undefined
      refusals++
      return refusal()
    })
    const onlyOneIsLeft = async (): Promise<void> => {
      await until(async () => (await place.events()).length === 1)
      expect((await place.events())[0]?.id).toBe(id)
    }
    return { bus, id, seen, onlyOneIsLeft, refusals: () => refusals }
  }

  describe('an outcome that the database refuses', () => {
    test('buries its event with the reason, writes nothing else of it, and holds up nobody', async (place) => {
      const { bus, id, seen, onlyOneIsLeft } = await withRefused(place, ({ kind }) => kind === 'complete')
      await bus.start()
      await until(async () => (await rawEvent(place, id))?.state === 'dead')
      await onlyOneIsLeft()
      await bus.stop()
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters).toMatchObject([
        { id, attempts: 1, error: expect.stringContaining('a value is refused') },
      ])
      expect(seen.toSorted()).toEqual([1, 2, 3])
    })

    test('and the reason with it is buried with another', async (place) => {
      const { bus, id, onlyOneIsLeft } = await withRefused(
        place,
        (settle) => settle.kind !== 'bury' || settle.error.includes('a value is refused'),
      )
      await bus.start()
      await until(async () => (await rawEvent(place, id))?.state === 'dead')
      await onlyOneIsLeft()
      await bus.stop()
      const { letters } = await place.outbox.deadLetters.list()
      expect(letters).toMatchObject([{ id, error: expect.stringContaining('and the reason for it too') }])
    })

    const logger = recordingLogger()
    test(
      'whatever is tried is given up: an error says so, its lease is kept no longer, others go on',
      async (place) => {
        const { bus, id, onlyOneIsLeft, refusals } = await withRefused(place, () => true)
        await bus.start()
        const givenUp = (): boolean =>
          logger.lines.some(({ level, message }) => level === 'error' && message.includes('given up'))
        await until(givenUp)
        await onlyOneIsLeft()
        expect(refusals()).toBeGreaterThanOrEqual(3)
        const extended: string[] = []
        const { extend } = place.outbox.storage
        place.outbox.storage.extend = (leases, leaseMs) => {
          extended.push(...leases.map((lease) => lease.id))
          return extend.call(place.outbox.storage, leases, leaseMs)
        }
        await Promise.all([bus.emit('work', { n: 4 }), bus.waitFor('work')])
        await bus.stop()
        expect(extended).not.toContain(id)
        expect(await rawEvent(place, id)).toMatchObject({ state: 'leased', attempt: 1 })
        await place.expireLeases()
        expect(await takeDue(place.outbox.storage, 1, 60_000)).toMatchObject([{ id, attempt: 2 }])
      },
      { logger },
    )

    test('counts as settled: stop does not wait for it', async (place) => {
      const { bus, onlyOneIsLeft } = await withRefused(place, () => true)
      await bus.start()
      await onlyOneIsLeft()
      const began = performance.now()
      await bus.stop({ timeout: '1m' })
      expect(performance.now() - began).toBeLessThan(20_000)
    })
  })
}
