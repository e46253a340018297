import { createHash, randomBytes } from 'node:crypto'
import { describe, expect } from 'vitest'
import { type PlaceTest, payload, text, until } from '../harness.ts'
import { payloadTexts, putting, removing } from './fixtures.ts'

/** Payload bytes: exactly those that were given, for as long as was said. */
export function payloadStorageContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('payload bytes', () => {
    test('keep every byte value, and may be none at all', async ({ outbox: { storage }, payloads }) => {
      const every = Uint8Array.from({ length: 1024 }, (_, index) => index % 256)
      await storage.write([putting(payload('every', every), payload('empty', ''))])
      expect([...((await storage.getPayload('every')) ?? [])]).toEqual([...every])
      expect(await storage.getPayload('empty')).toHaveLength(0)
      const raw = (await payloads()).find(({ id }) => id === 'every')
      expect([...(raw?.data ?? [])]).toEqual([...every])
    })

    test('of a view are those of the view, not of the buffer behind it', async (place) => {
      const { storage } = place.outbox
      const behind = Uint8Array.from({ length: 64 }, (_, index) => index)
      await storage.write([
        putting(payload('view', behind.subarray(10, 20)), payload('pooled', Buffer.from('pooled bytes'))),
      ])
      expect([...((await storage.getPayload('view')) ?? [])]).toEqual([...behind.subarray(10, 20)])
      expect(text(await storage.getPayload('pooled'))).toBe('pooled bytes')
      expect((await storage.getPayload('view'))?.byteLength).toBe(10)
      expect(await storage.getPayload('view')).toBeInstanceOf(Uint8Array)
    })

    test('stay what they were when the caller reuses its array', async (place) => {
      const { storage } = place.outbox
      const mine = Uint8Array.of(1, 2, 3)
      await storage.write([putting(payload('a', mine))])
      mine.fill(9)
      const read = await storage.getPayload('a')
      expect([...(read ?? [])]).toEqual([1, 2, 3])
      read?.fill(9)
      expect([...((await storage.getPayload('a')) ?? [])]).toEqual([1, 2, 3])
      const written = Uint8Array.of(4, 5, 6)
      await storage.transaction(async (tx) => {
        await storage.write([putting(payload('b', written))], tx)
        written.fill(9)
      })
      expect([...((await storage.getPayload('b')) ?? [])]).toEqual([4, 5, 6])
    })

    test('may be 200 KB that no compression makes smaller', async (place) => {
      const data = randomBytes(200 * 1024)
      await place.outbox.storage.write([putting(payload('big', data))])
      const read = await place.outbox.storage.getPayload('big')
      const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
      expect(digest(read ?? new Uint8Array())).toBe(digest(data))
    })

    test('expire by the database’s own clock, whichever way the moment was given', async (place) => {
      const { storage } = place.outbox
      await storage.write([
        putting(
          payload('counted', 'x', { inMs: 300 }),
          payload('absolute', 'x', { at: Date.now() + 300 }),
          payload('long', 'x'),
        ),
      ])
      await until(async () => (await storage.getPayload('counted')) === undefined)
      await until(async () => (await storage.getPayload('absolute')) === undefined)
      expect(text(await storage.getPayload('long'))).toBe('x')
    })

    test('are not handed out when they have expired, though still stored', async (place) => {
      const { storage } = place.outbox
      await storage.write([putting(payload('a', 'x'), payload('b', 'y'))])
      await place.expirePayload('a')
      expect(await storage.getPayload('a')).toBeUndefined()
      expect(text(await storage.getPayload('b'))).toBe('y')
    })

    test('live again when put again, and shorter when put for a shorter time', async (place) => {
      const { storage } = place.outbox
      await storage.write([putting(payload('revived', 'old'), payload('shortened', 'old'))])
      await place.expirePayload('revived')
      await storage.write([putting(payload('revived', 'new'), payload('shortened', 'new', { inMs: 300 }))])
      expect(text(await storage.getPayload('revived'))).toBe('new')
      expect(await place.payloads()).toHaveLength(2)
      await until(async () => (await storage.getPayload('shortened')) === undefined)
      expect(text(await storage.getPayload('revived'))).toBe('new')
    })

    test('are removed by id; an id that is not there is no error', async (place) => {
      const { storage } = place.outbox
      await storage.write([putting(payload('a', 'a'), payload('b', 'b'))])
      expect(await storage.write([removing('unknown', 'a')])).toEqual([{ status: 'applied' }])
      expect(await storage.write([removing('a')])).toEqual([{ status: 'applied' }])
      expect(await payloadTexts(place)).toEqual({ b: 'b' })
    })
  })
}
