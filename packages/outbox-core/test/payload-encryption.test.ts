import { randomBytes } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  CorruptPayloadError,
  PayloadAuthenticationError,
  UnknownKeyError,
  UnsupportedPayloadError,
} from '../src/claims/payload-errors.ts'
import { type EncryptionOptions, PayloadCodec } from '../src/claims/payload-frame.ts'
import { OutboxError } from '../src/errors.ts'
import {
  bitFlips,
  bytesOf,
  DEFLATE,
  failure,
  forge,
  resealed,
  resizes,
  STORED,
  webhookPayloads,
  ZSTD,
} from './forged-frame.ts'

const COMPRESSIONS = ['zstd', 'deflate', 'none'] as const
const CODEC = { zstd: ZSTD, deflate: DEFLATE, none: STORED }
const BORDER = 64 * 1024
const MAX_BYTES = 1024 * 1024
const CLAIM = 'claim-1'

const KEY = randomBytes(32)
const FIRST: EncryptionOptions = { current: 'k1', keys: { k1: KEY } }

type Compression = (typeof COMPRESSIONS)[number]

function codec(encryption?: EncryptionOptions, compression: Compression = 'zstd'): PayloadCodec {
  return new PayloadCodec({ compression, maxBytes: MAX_BYTES, ...(encryption && { encryption }) })
}

describe('round trips', () => {
  test('any bytes, with every codec, below and above the border', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 200 * 1024 }),
        fc.constantFrom('text', 'noise', 'mixed'),
        fc.constantFrom(...COMPRESSIONS),
        fc.stringMatching(/^[A-Za-z0-9_.:-]{1,64}$/),
        fc.string({ unit: 'grapheme', maxLength: 80 }),
        async (length, kind, compression, keyId, claimId) => {
          const raw = bytesOf(kind, length)
          const subject = codec({ current: keyId, keys: { [keyId]: KEY } }, compression)
          const frame = await subject.encode(raw, claimId)
          expect(frame.byteLength).toBeLessThanOrEqual(subject.maxFrameBytes)
          expect(frame.buffer.byteLength).toBe(frame.byteLength)
          expect(Buffer.compare(await subject.decode(frame, claimId), raw)).toBe(0)
        },
      ),
      { numRuns: 200 },
    )
  })

  test('every webhook payload', async () => {
    for (const raw of webhookPayloads()) {
      const frame = await codec(FIRST).encode(raw, CLAIM)
      expect(Buffer.compare(await codec(FIRST).decode(frame, CLAIM), raw)).toBe(0)
    }
  })

  test('a frame of the first release', async () => {
    const frame = Buffer.from(
      '4f530100181bca070000000c026b31' +
        '75dd84a4baffd24bc6f1890bda64f1915f9b196b9ec7824582d1e5fdb6e63833c27fc34cf0b18902',
      'hex',
    )
    const subject = codec({ current: 'k1', keys: { k1: new Uint8Array(32).fill(7) } })
    expect(Buffer.from(await subject.decode(frame, CLAIM)).toString()).toBe('{"order":42}')
  })

  test('no byte of the payload shows, and no two frames are alike', async () => {
    const raw = Buffer.from('{"card":"4111 1111 1111 1111"}')
    const frames = new Set<string>()
    for (let round = 0; round < 100; round += 1) {
      const frame = Buffer.from(await codec(FIRST, 'none').encode(raw, CLAIM))
      expect(frame.includes('4111')).toBe(false)
      frames.add(frame.toString('hex', 15, 27))
    }
    expect(frames.size).toBe(100)
  })

  test('compresses before it encrypts, and the largest frame is as large as it says', async () => {
    const subject = codec(FIRST)
    expect((await subject.encode(bytesOf('text', 10_000), CLAIM)).byteLength).toBeLessThan(200)
    expect((await subject.encode(bytesOf('noise', MAX_BYTES), CLAIM)).byteLength).toBe(subject.maxFrameBytes)
  })

  test('is synchronous below 64 KiB, asynchronous from there on', async () => {
    const below = codec(FIRST).encode(bytesOf('text', BORDER - 1), CLAIM)
    expect(below).toBeInstanceOf(Uint8Array)
    expect(codec(FIRST).decode(below as Uint8Array, CLAIM)).toBeInstanceOf(Uint8Array)
    const above = codec(FIRST).encode(bytesOf('text', BORDER), CLAIM)
    expect(above).toBeInstanceOf(Promise)
    expect(codec(FIRST).decode(await above, CLAIM)).toBeInstanceOf(Promise)
  })
})

describe('damage', () => {
  const raw = Buffer.from(JSON.stringify({ order: 42, note: 'secret '.repeat(12) }))

  test.each(COMPRESSIONS)('every flipped bit, every truncation and extension of %s', async (compression) => {
    const frame = await codec(FIRST, compression).encode(raw, CLAIM)
    expect(frame[3]).toBe(CODEC[compression])
    for (const change of [bitFlips, resizes]) {
      for (const bytes of change(frame)) {
        expect(await failure(() => codec(FIRST).decode(bytes, CLAIM))).toBeInstanceOf(CorruptPayloadError)
      }
    }
  })

  test.each(COMPRESSIONS)('all of it by someone who can make checksums (%s)', async (compression) => {
    const frame = await codec(FIRST, compression).encode(raw, CLAIM)
    const subject = codec(FIRST)
    for (const flipped of bitFlips(frame)) {
      const error = await failure(() => subject.decode(resealed(flipped), CLAIM))
      // The checksum alone is made anew, so that a flip in it changes nothing.
      if (resealed(flipped).equals(frame)) expect(error).toBeUndefined()
      else expect(error).toBeInstanceOf(OutboxError)
    }
    for (let length = 13; length < frame.byteLength; length += 1) {
      const error = await failure(() => subject.decode(resealed(frame.subarray(0, length)), CLAIM))
      expect(error).toBeInstanceOf(length < 15 + 28 ? CorruptPayloadError : PayloadAuthenticationError)
    }
    expect(
      await failure(() => subject.decode(resealed(Buffer.concat([frame, Buffer.from('x')])), CLAIM)),
    ).toBeInstanceOf(compression === 'none' ? CorruptPayloadError : PayloadAuthenticationError)
  })

  test('another codec or length than was encrypted', async () => {
    const frame = Buffer.from(await codec(FIRST).encode(raw, CLAIM))
    for (const [at, value] of [
      [3, STORED],
      [3, DEFLATE],
      [3, 9],
      [11, raw.byteLength + 1],
    ] as const) {
      const forged = Buffer.from(frame)
      forged[at] = value
      expect(await failure(() => codec(FIRST).decode(resealed(forged), CLAIM))).toBeInstanceOf(
        PayloadAuthenticationError,
      )
    }
  })

  test('what was encrypted with the right key is checked all the same', async () => {
    const body = Buffer.from('abc')
    const decode = (codecId: number, rawBytes: number) =>
      failure(() =>
        codec(FIRST).decode(
          forge({ codec: codecId, rawBytes, body, encryption: FIRST, claimId: CLAIM }),
          CLAIM,
        ),
      )
    expect(await decode(STORED, 3)).toBeUndefined()
    expect(await decode(STORED, 2)).toBeInstanceOf(CorruptPayloadError)
    expect(await decode(STORED, 4)).toBeInstanceOf(CorruptPayloadError)
    expect(await decode(ZSTD, 100)).toBeInstanceOf(CorruptPayloadError)
    expect(await decode(DEFLATE, BORDER)).toBeInstanceOf(CorruptPayloadError)
    expect(await decode(3, 100)).toBeInstanceOf(UnsupportedPayloadError)
    expect(await decode(STORED, MAX_BYTES + 1)).toBeInstanceOf(CorruptPayloadError)
  })

  test('its error names neither payload nor key', async () => {
    const frame = await codec(FIRST, 'none').encode(raw, CLAIM)
    const error = (await failure(() => codec(FIRST).decode(frame, 'claim-2'))) as PayloadAuthenticationError
    expect(error.message).toContain('"k1"')
    expect(error.cause).toBeInstanceOf(Error)
    for (const secret of ['secret', KEY.toString('hex'), KEY.toString('base64')]) {
      expect(`${error.stack} ${error.cause}`).not.toContain(secret)
    }
  })
})

describe('what a payload is bound to', () => {
  test.each(COMPRESSIONS)('the bytes of another claim (%s)', async (compression) => {
    for (const length of [0, 1_000, BORDER]) {
      const frame = await codec(FIRST, compression).encode(bytesOf('text', length), CLAIM)
      for (const other of ['claim-2', 'claim-', 'claim-11', '']) {
        const error = await failure(() => codec(FIRST).decode(frame, other))
        expect(error).toBeInstanceOf(PayloadAuthenticationError)
      }
    }
  })

  test('plain payloads are refused, unless allowed', async () => {
    for (const length of [0, 1_000, BORDER]) {
      const raw = bytesOf('text', length)
      const plain = await codec().encode(raw, CLAIM)
      expect(await failure(() => codec(FIRST).decode(plain, CLAIM))).toBeInstanceOf(
        PayloadAuthenticationError,
      )
      const lenient = codec({ ...FIRST, allowPlaintext: true })
      expect(Buffer.compare(await lenient.decode(plain, CLAIM), raw)).toBe(0)
      const sealed = await lenient.encode(raw, CLAIM)
      expect(await failure(() => codec().decode(sealed, CLAIM))).toBeInstanceOf(UnknownKeyError)
      expect(await failure(() => lenient.decode(sealed, 'claim-2'))).toBeInstanceOf(
        PayloadAuthenticationError,
      )
    }
  })
})
