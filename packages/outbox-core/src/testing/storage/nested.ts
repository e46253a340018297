import { describe, expect } from 'vitest'
import { appending, newEvent, type PlaceTest, payload } from '../harness.ts'
import { eventIds, FAR, payloadTexts, putting } from './fixtures.ts'

/** Where a storage can take back a part of a transaction. Where it can't, core refuses the whole. */
export function nestedContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('a part of a transaction', () => {
    test('is taken back alone when it fails, with the user’s own rows', async (place) => {
      const { storage } = place.outbox
      if (!storage.nested) return
      const thrown = new Error('no')
      await storage.transaction(async (tx) => {
        await storage.write([appending(newEvent({ id: 'before', due: FAR }))], tx)
        await place.writeBusinessRow(tx, 'before')
        const failing = storage.nested?.(tx, async () => {
          await storage.write(
            [appending(newEvent({ id: 'inside', due: FAR })), putting(payload('p', 'x'))],
            tx,
          )
          await place.writeBusinessRow(tx, 'inside')
          throw thrown
        })
        await expect(failing).rejects.toBe(thrown)
        await storage.write([appending(newEvent({ id: 'after', due: FAR }))], tx)
        await place.writeBusinessRow(tx, 'after')
      })
      expect(await eventIds(place)).toEqual(['after', 'before'])
      expect([...(await place.businessRows())].sort()).toEqual(['after', 'before'])
      expect(await payloadTexts(place)).toEqual({})
    })

    test('stays when it succeeds, and may have parts of its own', async (place) => {
      const { storage } = place.outbox
      if (!storage.nested) return
      await storage.transaction(async (tx) => {
        const result = await storage.nested?.(tx, async () => {
          await storage.write([appending(newEvent({ id: 'outer', due: FAR }))], tx)
          const failing = storage.nested?.(tx, async () => {
            await storage.write([appending(newEvent({ id: 'inner', due: FAR }))], tx)
            throw new Error('no')
          })
          await expect(failing).rejects.toThrow('no')
          await storage.nested?.(tx, () =>
            storage.write([appending(newEvent({ id: 'second', due: FAR }))], tx),
          )
          return 'done'
        })
        expect(result).toBe('done')
      })
      expect(await eventIds(place)).toEqual(['outer', 'second'])
    })
  })
}
