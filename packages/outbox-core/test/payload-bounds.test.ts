import { deflateRawSync, constants as zlib } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { CorruptPayloadError, PayloadTooLargeError } from '../src/claims/payload-errors.ts'
import { PayloadCodec } from '../src/claims/payload-frame.ts'
import { bytesOf, DEFLATE, failure, forge, resealed, ZSTD } from './forged-frame.ts'

const COMPRESSIONS = ['zstd', 'deflate', 'none'] as const
const BORDER = 64 * 1024
const MEBIBYTE = 1024 * 1024
const CLAIM = 'claim-1'

function codec(
  compression: (typeof COMPRESSIONS)[number] = 'zstd',
  maxBytes: number = 4 * MEBIBYTE,
): PayloadCodec {
  return new PayloadCodec({ compression, maxBytes })
}

describe('bounds', () => {
  const GIGABYTE = 2 ** 30

  /** Blocks that are one byte and how often it comes; no content size, a window of 2^windowLog. */
  function zstdBomb(blocks: number, windowLog = 20, blockBytes = 2 ** 17): Uint8Array {
    const body = Buffer.alloc(6 + 4 * blocks)
    body.writeUInt32LE(0xfd2fb528, 0)
    body.writeUInt8((windowLog - 10) << 3, 5)
    for (let block = 1; block <= blocks; block += 1) {
      const last = block === blocks ? 1 : 0
      body.writeUIntLE((blockBytes << 3) | (1 << 1) | last, 2 + 4 * block, 3)
    }
    return body
  }

  /** The same MiB again and again. */
  function deflateBomb(mebibytes: number): Uint8Array {
    const part = deflateRawSync(Buffer.alloc(MEBIBYTE), { level: 9, finishFlush: zlib.Z_FULL_FLUSH })
    return Buffer.concat([...Array.from({ length: mebibytes }, () => part), deflateRawSync(Buffer.alloc(0))])
  }

  test.each([
    ['zstd', ZSTD, zstdBomb(8192)],
    ['deflate', DEFLATE, deflateBomb(1024)],
  ] as const)('a gigabyte of %s never comes into memory', async (_name, codecId, body) => {
    expect(body.byteLength).toBeLessThan(2 * MEBIBYTE)
    const before = process.resourceUsage().maxRSS
    for (const rawBytes of [0, 1, 1_000, BORDER - 1, BORDER, body.byteLength + 1, 8 * MEBIBYTE, GIGABYTE]) {
      const frame = forge({ codec: codecId, rawBytes, body })
      const error = await failure(() => codec('zstd', 8 * MEBIBYTE).decode(frame, CLAIM))
      expect(error).toBeInstanceOf(CorruptPayloadError)
    }
    expect((process.resourceUsage().maxRSS - before) / 1024).toBeLessThan(256)
  })

  test.each([
    ['zstd', ZSTD, zstdBomb(8)],
    ['deflate', DEFLATE, deflateBomb(1)],
  ] as const)('a mebibyte made the same way does (%s)', async (_name, codecId, body) => {
    const decoded = await codec().decode(forge({ codec: codecId, rawBytes: MEBIBYTE, body }), CLAIM)
    expect(Buffer.from(decoded).equals(Buffer.alloc(MEBIBYTE))).toBe(true)
  })

  test('zstd frames that ask for a larger window than 8 MiB', async () => {
    for (const rawBytes of [2 ** 15, 2 ** 17]) {
      const frame = (windowLog: number): Buffer =>
        forge({ codec: ZSTD, rawBytes, body: zstdBomb(1, windowLog, rawBytes) })
      expect((await codec().decode(frame(23), CLAIM)).byteLength).toBe(rawBytes)
      expect(await failure(() => codec().decode(frame(24), CLAIM))).toBeInstanceOf(CorruptPayloadError)
    }
  })

  test.each(COMPRESSIONS)('%s that holds more or less than it says', async (compression) => {
    for (const length of [1_000, BORDER - 1, BORDER, 100_000]) {
      const frame = Buffer.from(await codec(compression).encode(bytesOf('text', length), CLAIM))
      for (const lie of [-length, -100, -1, 1, 100, 100_000, MEBIBYTE]) {
        const forged = Buffer.from(frame)
        forged.writeUInt32BE(length + lie, 8)
        const error = await failure(() => codec().decode(resealed(forged), CLAIM))
        expect(error).toBeInstanceOf(CorruptPayloadError)
      }
      expect((await codec().decode(resealed(frame), CLAIM)).byteLength).toBe(length)
    }
  })

  test('compressed bytes are fewer than raw ones, or nobody compressed them', async () => {
    const frame = (rawBytes: number): Buffer =>
      forge({ codec: ZSTD, rawBytes, body: zstdBomb(1, 10, rawBytes) })
    expect(zstdBomb(1)).toHaveLength(10)
    expect((await codec().decode(frame(11), CLAIM)).byteLength).toBe(11)
    for (const rawBytes of [0, 9, 10]) {
      expect(await failure(() => codec().decode(frame(rawBytes), CLAIM))).toBeInstanceOf(CorruptPayloadError)
    }
  })

  test.each([1, 1_000, BORDER, 100_000])('a limit of %d bytes', async (limit) => {
    for (const compression of COMPRESSIONS) {
      const subject = codec(compression, limit)
      for (const kind of ['text', 'noise'] as const) {
        for (const length of [limit - 1, limit]) {
          const frame = await subject.encode(bytesOf(kind, length), CLAIM)
          expect((await subject.decode(frame, CLAIM)).byteLength).toBe(length)
        }
        const error = await failure(() => subject.encode(bytesOf(kind, limit + 1), CLAIM))
        expect(error).toBeInstanceOf(PayloadTooLargeError)
        expect(error).toMatchObject({ limit, actual: limit + 1 })
        const frame = await codec(compression).encode(bytesOf(kind, limit + 1), CLAIM)
        expect(await failure(() => subject.decode(frame, CLAIM))).toBeInstanceOf(CorruptPayloadError)
      }
      const largest = await subject.encode(bytesOf('noise', limit), CLAIM)
      expect(largest.byteLength).toBe(subject.maxFrameBytes)
    }
  })
})
