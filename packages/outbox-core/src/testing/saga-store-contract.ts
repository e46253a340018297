import { describe, expect } from 'vitest'
import {
  ClaimNotFoundError,
  CorruptPayloadError,
  InvalidClaimIdError,
  InvalidExpiryError,
  PayloadTooLargeError,
} from '../claims/payload-errors.ts'
import { type PlaceTest, recordingLogger, text } from './harness.ts'

/** The saga store: bytes with a time to live, under a claim id. */
export function sagaStoreContract<Tx, O>(test: PlaceTest<Tx, O>): void {
  describe('saga store', () => {
    test('a store puts, gets and deletes compressed binary with its time to live', async ({
      outbox,
      payloads,
    }) => {
      const store = outbox.sagaStore('7d')
      const data = new TextEncoder().encode('abc '.repeat(10_000))
      await store.put('claim', data)
      const [raw] = await payloads()
      expect(raw?.data.byteLength).toBeLessThan(data.byteLength / 10)
      expect(Math.abs((raw?.expiresAt ?? 0) - (Date.now() + 7 * 24 * 3_600_000))).toBeLessThan(600_000)
      expect(text(await store.get('claim'))).toBe('abc '.repeat(10_000))
      await store.delete('claim')
      await store.delete('claim')
      expect(await store.get('claim')).toBeUndefined()
      expect(await payloads()).toEqual([])
    })

    test('a store keeps a payload until the given moment', async (place) => {
      const store = place.outbox.sagaStore('1h')
      const expiresAt = new Date(Date.now() + 90_000)
      await store.put('claim', Uint8Array.of(1), expiresAt)
      expect(Math.abs(((await place.payloads())[0]?.expiresAt ?? 0) - expiresAt.getTime())).toBeLessThan(
        2_000,
      )
      await expect(store.put('past', Uint8Array.of(1), new Date(Date.now() - 1))).rejects.toThrow(
        InvalidExpiryError,
      )
      await expect(store.put('nan', Uint8Array.of(1), new Date(Number.NaN))).rejects.toThrow(
        InvalidExpiryError,
      )
      expect(await place.payloads()).toHaveLength(1)
    })

    test('cleanup removes what has expired and nothing else', async (place) => {
      const store = place.outbox.sagaStore('1h')
      for (const id of ['a', 'b', 'c']) await store.put(id, Uint8Array.of(1))
      await place.expirePayload('a')
      await place.expirePayload('b')
      expect(await store.cleanup()).toBeLessThanOrEqual(2)
      expect((await place.payloads()).map(({ id }) => id)).toEqual(['c'])
      expect(await store.cleanup()).toBe(0)
    })

    test('refuses claim ids that no store gives out, without asking the database', async (place) => {
      const store = place.outbox.sagaStore('1h')
      const before = place.roundTrips()
      const hostile = [
        '',
        ' ',
        'a b',
        "a'; DROP TABLE saga_store;--",
        '../x',
        '{x}',
        '$ne',
        'a\u0000',
        'é',
        'x'.repeat(129),
      ]
      for (const id of [...hostile, undefined, null, { $ne: 1 }, ['a']] as string[]) {
        await expect(store.get(id)).rejects.toThrow(InvalidClaimIdError)
        await expect(store.put(id, Uint8Array.of(1))).rejects.toThrow(InvalidClaimIdError)
        await expect(store.delete(id)).rejects.toThrow(InvalidClaimIdError)
      }
      expect(place.roundTrips()).toBe(before)
    })

    test('takes the largest payload allowed and refuses one byte more', async (place) => {
      const store = place.outbox.sagaStore('1h', { maxPayloadBytes: 1000 })
      await store.put('a', new Uint8Array(999))
      await store.put('b', new Uint8Array(1000))
      await expect(store.put('c', new Uint8Array(1001))).rejects.toThrow(PayloadTooLargeError)
      await expect(store.put('c', new Uint8Array(1001))).rejects.toMatchObject({ limit: 1000, actual: 1001 })
      expect(await place.payloads()).toHaveLength(2)
    })

    test('never returns damaged bytes', async (place) => {
      const store = place.outbox.sagaStore('1h')
      await store.put('claim', new TextEncoder().encode('abc '.repeat(100)))
      const [raw] = await place.payloads()
      if (!raw) throw new Error('a payload was put')
      const damaged = Uint8Array.from(raw.data)
      damaged[damaged.length - 1] = (damaged.at(-1) ?? 0) ^ 1
      await place.overwritePayload('claim', damaged)
      await expect(store.get('claim')).rejects.toThrow(CorruptPayloadError)
      await place.overwritePayload('claim', raw.data.subarray(0, 20))
      await expect(store.get('claim')).rejects.toThrow(CorruptPayloadError)
    })

    test('encrypts, and binds a payload to its claim', async (place) => {
      const key = Uint8Array.from({ length: 32 }, (_, index) => index)
      const store = place.outbox.sagaStore('1h', { encryption: { current: 'k1', keys: { k1: key } } })
      await store.put('a', new TextEncoder().encode('secret '.repeat(50)))
      await store.put('b', new TextEncoder().encode('other '.repeat(50)))
      expect(text(await store.get('a'))).toBe('secret '.repeat(50))
      const stolen = (await place.payloads()).find(({ id }) => id === 'b')
      await place.overwritePayload('a', stolen?.data ?? new Uint8Array())
      await expect(store.get('a')).rejects.toMatchObject({ code: 'OUTBOX_PAYLOAD_AUTHENTICATION' })
      await expect(place.outbox.sagaStore('1h').get('b')).rejects.toMatchObject({
        code: 'OUTBOX_UNKNOWN_KEY',
      })
    })

    const logger = recordingLogger()
    test(
      'logs every put, get, delete and cleanup with slip, claim, bytes and duration, and never the bytes',
      async ({ outbox }) => {
        const store = outbox.sagaStore('1h')
        await store.put('claim', new TextEncoder().encode('TOP-SECRET'), undefined, {
          routingSlipId: 'slip-1',
        })
        await store.get('claim', { routingSlipId: 'slip-1' })
        await store.delete('claim', { routingSlipId: 'slip-1' })
        await store.cleanup()
        const about = { routingSlipId: 'slip-1', claimId: 'claim', durationMs: expect.any(Number) }
        const bytes = expect.any(Number)
        expect(logger.lines).toEqual(
          expect.arrayContaining([
            { level: 'debug', message: 'payload put', fields: { ...about, bytes } },
            { level: 'debug', message: 'payload get', fields: { ...about, bytes } },
            { level: 'debug', message: 'payload delete', fields: about },
            {
              level: 'debug',
              message: 'cleanup',
              fields: expect.objectContaining({ durationMs: expect.any(Number) }),
            },
          ]),
        )
        expect(JSON.stringify(logger.lines)).not.toContain('TOP-SECRET')
      },
      { logger },
    )

    const failures = recordingLogger()
    test(
      'logs what failed with slip, claim and reason',
      async (place) => {
        const call = { routingSlipId: 'slip-1' }
        const store = place.outbox.sagaStore('1h', { maxPayloadBytes: 10 })
        await expect(store.put('large', new Uint8Array(11), undefined, call)).rejects.toThrow('11 bytes')
        await store.put('claim', new Uint8Array(10), undefined, call)
        await place.overwritePayload('claim', Uint8Array.of(1, 2, 3))
        await expect(store.get('claim', call)).rejects.toThrow('no payload frame')
        const errors = failures.lines.filter(({ level }) => level === 'error')
        expect(errors).toMatchObject([
          {
            message: 'payload put failed',
            fields: { ...call, claimId: 'large', bytes: 11, err: { code: 'OUTBOX_PAYLOAD_TOO_LARGE' } },
          },
          {
            message: 'payload get failed',
            fields: { ...call, claimId: 'claim', bytes: 3, err: { code: 'OUTBOX_CORRUPT_PAYLOAD' } },
          },
        ])
      },
      { logger: failures },
    )

    test('says when a claim leads nowhere', async ({ outbox }) => {
      expect(await outbox.sagaStore('1h').get('nothing')).toBeUndefined()
      expect(new ClaimNotFoundError('x').code).toBe('OUTBOX_CLAIM_NOT_FOUND')
    })
  })
}
