import { deflateRawSync, zstdCompressSync } from 'node:zlib'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CorruptPayloadError, UnsupportedPayloadError } from '../src/claims/payload-errors.ts'
import { PayloadCodec } from '../src/claims/payload-frame.ts'
import { ConfigurationError, OutboxError } from '../src/errors.ts'
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
const COMPRESSED = ['zstd', 'deflate'] as const
const CODEC = { zstd: ZSTD, deflate: DEFLATE, none: STORED }
const BORDER = 64 * 1024
const MEBIBYTE = 1024 * 1024
const CLAIM = 'claim-1'

type Compression = (typeof COMPRESSIONS)[number]

function codec(compression: Compression = 'zstd', maxBytes = 4 * MEBIBYTE): PayloadCodec {
  return new PayloadCodec({ compression, maxBytes })
}

function codecByte(frame: Uint8Array): number | undefined {
  return frame[3]
}

function squeeze(compression: 'zstd' | 'deflate', raw: Uint8Array): Uint8Array {
  return compression === 'zstd' ? zstdCompressSync(raw) : deflateRawSync(raw)
}

describe('round trips', () => {
  test('any bytes, with every codec, below and above the border', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 200 * 1024 }),
        fc.constantFrom('text', 'noise', 'mixed'),
        fc.constantFrom(...COMPRESSIONS),
        fc.integer({ min: 1, max: 2 ** 31 }),
        async (length, kind, compression, seed) => {
          const raw = bytesOf(kind, length, seed)
          const kept = Buffer.from(raw)
          const subject = codec(compression, length + 1)
          const frame = await subject.encode(raw, CLAIM)
          expect(kept.equals(raw)).toBe(true)
          expect(frame.byteLength).toBeLessThanOrEqual(subject.maxFrameBytes)
          expect(kept.equals(await subject.decode(frame, CLAIM))).toBe(true)
        },
      ),
      { numRuns: 300 },
    )
  })

  test.each(COMPRESSIONS)('every webhook payload with %s', async (compression) => {
    const payloads = webhookPayloads()
    expect(payloads).toHaveLength(329)
    let stored = 0
    for (const raw of payloads) {
      const frame = await codec(compression).encode(raw, CLAIM)
      stored += frame.byteLength
      expect(Buffer.compare(await codec(compression).decode(frame, CLAIM), raw)).toBe(0)
    }
    const all = payloads.reduce((sum, raw) => sum + raw.byteLength, 0)
    expect(stored).toBeLessThan(compression === 'none' ? all * 1.01 : all / 5)
  })

  test.each(COMPRESSIONS)('one codec reads what another has written (%s)', async (compression) => {
    const raw = bytesOf('text', 3_000)
    const frame = await codec(compression).encode(raw, CLAIM)
    expect(codecByte(frame)).toBe(CODEC[compression])
    for (const other of COMPRESSIONS)
      expect(await codec(other).decode(frame, 'any')).toEqual(Buffer.from(raw))
  })

  test.each([100, BORDER + 100])('views with an offset, of %d bytes', async (length) => {
    for (const compression of COMPRESSIONS) {
      const raw = bytesOf('text', length + 20).subarray(7, length + 7)
      const frame = await codec(compression).encode(raw, CLAIM)
      const moved = new Uint8Array(frame.byteLength + 9)
      moved.set(frame, 5)
      const decoded = await codec().decode(moved.subarray(5, 5 + frame.byteLength), CLAIM)
      expect(Buffer.compare(decoded, raw)).toBe(0)
    }
  })

  test.each([
    ['none', 1, '4f5301000415e64e0000000c007b226f72646572223a34327d'],
    ['zstd', 8, '4f530101df8f3d9f000000600028b52ffd20609d0000607b226f72646572223a34327d0100f1a92401'],
    ['deflate', 8, '4f5301027081ada40000006000ab56ca2f4a492d52b23231aaada6011b00'],
  ] as const)('a frame of the first release (%s)', async (_name, times, hex) => {
    const decoded = await codec().decode(Buffer.from(hex, 'hex'), CLAIM)
    expect(Buffer.from(decoded).toString()).toBe('{"order":42}'.repeat(times))
  })

  test('a frame owns its memory, and shares it with neither the payload it was made of nor the one made of it', async () => {
    for (const compression of COMPRESSIONS) {
      for (const length of [0, 10, 5_000, BORDER]) {
        const raw = bytesOf('noise', length)
        const frame = await codec(compression).encode(raw, CLAIM)
        expect(frame.buffer.byteLength).toBe(frame.byteLength)
        const decoded = await codec(compression).decode(frame, CLAIM)
        const copy = Buffer.from(raw)
        raw.fill(0)
        frame.fill(0)
        expect(copy.equals(decoded)).toBe(true)
      }
    }
  })
})

describe('compression', () => {
  test.each(COMPRESSED)('%s that saves less than 10 % is not kept', async (compression) => {
    const noise = bytesOf('noise', 10_000)
    const frames = [0, 900, 1_300].map((zeros) => {
      const raw = Uint8Array.from(noise).fill(0, 0, zeros)
      return codec(compression).encode(raw, CLAIM) as Uint8Array
    })
    expect(frames.map(codecByte)).toEqual([STORED, STORED, CODEC[compression]])
    expect(frames[0]?.byteLength).toBe(13 + 10_000)
    const large = await codec(compression).encode(bytesOf('noise', BORDER), CLAIM)
    expect(codecByte(large)).toBe(STORED)
  })

  test.each(COMPRESSIONS)(
    '%s is synchronous below 64 KiB, asynchronous from there on',
    async (compression) => {
      for (const kind of ['text', 'noise'] as const) {
        const below = codec(compression).encode(bytesOf(kind, BORDER - 1), CLAIM)
        expect(below).toBeInstanceOf(Uint8Array)
        expect(codec(compression).decode(below as Uint8Array, CLAIM)).toBeInstanceOf(Uint8Array)
        const above = codec(compression).encode(bytesOf(kind, BORDER), CLAIM)
        expect(above).toBeInstanceOf(Promise)
        const decoded = codec(compression).decode(await above, CLAIM)
        expect(decoded).toBeInstanceOf(Promise)
        expect((await decoded).byteLength).toBe(BORDER)
      }
    },
  )
})

describe('damage', () => {
  const raw = Buffer.from(JSON.stringify({ order: 42, note: 'secret '.repeat(12) }))

  test.each(COMPRESSIONS)('every flipped bit, every truncation and extension of %s', async (compression) => {
    const frame = await codec(compression).encode(raw, CLAIM)
    expect(codecByte(frame)).toBe(CODEC[compression])
    let damaged = 0
    for (const change of [bitFlips, resizes]) {
      for (const bytes of change(frame)) {
        damaged += 1
        expect(await failure(() => codec().decode(bytes, CLAIM))).toBeInstanceOf(CorruptPayloadError)
      }
    }
    expect(damaged).toBe(frame.byteLength * 9 + 5)
  })

  test.each(COMPRESSIONS)('truncations and extensions of %s with the right checksum', async (compression) => {
    const frame = await codec(compression).encode(raw, CLAIM)
    for (const bytes of resizes(frame)) {
      if (bytes.byteLength < 8) continue
      expect(await failure(() => codec().decode(resealed(bytes), CLAIM))).toBeInstanceOf(CorruptPayloadError)
    }
  })

  test.each(COMPRESSED)(
    'bytes after the end of what %s holds, below and above the border',
    async (compression) => {
      for (const length of [1_000, BORDER]) {
        const frame = await codec(compression).encode(bytesOf('text', length), CLAIM)
        for (const tail of [Buffer.from('x'), Buffer.alloc(20), squeeze(compression, raw)]) {
          const error = await failure(() => codec().decode(resealed(Buffer.concat([frame, tail])), CLAIM))
          expect(error).toBeInstanceOf(CorruptPayloadError)
        }
      }
    },
  )

  test('any bit flipped by someone who can make checksums: an error, or as many bytes as declared', async () => {
    for (const compression of COMPRESSIONS) {
      const frame = await codec(compression).encode(raw, CLAIM)
      for (const flipped of bitFlips(frame)) {
        const forged = resealed(flipped)
        const error = await failure(async () => {
          const decoded = await codec().decode(forged, CLAIM)
          expect(decoded.byteLength).toBe(forged.readUInt32BE(8))
        })
        if (error !== undefined) expect(error).toBeInstanceOf(OutboxError)
      }
    }
  })

  test('random bytes, plain or dressed up as a frame', async () => {
    const subject = codec('zstd', 1_000)
    const rejected = async (bytes: Uint8Array): Promise<void> => {
      expect(await failure(() => subject.decode(bytes, CLAIM))).toBeInstanceOf(OutboxError)
    }
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), rejected), { numRuns: 1_000 })
    const dressed = fc
      .tuple(fc.constantFrom(ZSTD, DEFLATE, 3), fc.nat(2_000), fc.uint8Array({ maxLength: 300 }))
      .map(([codecId, rawBytes, body]) => forge({ codec: codecId, rawBytes: rawBytes + 301, body }))
    await fc.assert(fc.asyncProperty(dressed, rejected), { numRuns: 1_000 })
  })

  test('its error names no payload, and keeps what zlib said', async () => {
    const text = raw.subarray(0, 60)
    const lies = [
      forge({ codec: STORED, rawBytes: 61, body: text }),
      forge({ codec: ZSTD, rawBytes: 100, body: text }),
      forge({ codec: DEFLATE, rawBytes: 100, body: text }),
      forge({ codec: ZSTD, rawBytes: BORDER, body: text }),
      forge({ codec: DEFLATE, rawBytes: BORDER, body: text }),
      text,
    ]
    for (const [index, frame] of lies.entries()) {
      const error = (await failure(() => codec().decode(frame, CLAIM))) as CorruptPayloadError
      expect(error).toBeInstanceOf(CorruptPayloadError)
      expect(`${error.message} ${error.cause}`).not.toMatch(/secret|order/)
      if (index > 0 && index < 5) expect(error.cause).toBeInstanceOf(Error)
    }
  })
})

describe('frames of others', () => {
  test('bytes that begin otherwise, with a checksum that fits', async () => {
    const frame = forge({ codec: STORED, rawBytes: 3, body: Buffer.from('abc') })
    frame.write('ZS')
    expect(await failure(() => codec().decode(resealed(frame), CLAIM))).toBeInstanceOf(CorruptPayloadError)
  })

  test.each([0, 2, 255])('version %d', async (version) => {
    const frame = forge({ codec: STORED, rawBytes: 3, body: Buffer.from('abc'), version })
    const error = (await failure(() => codec().decode(frame, CLAIM))) as UnsupportedPayloadError
    expect(error).toBeInstanceOf(UnsupportedPayloadError)
    expect(error.message).toContain(`version ${version}`)
  })

  test('an unknown codec', async () => {
    const frame = forge({ codec: 3, rawBytes: 3, body: Buffer.from('abc') })
    expect(await failure(() => codec().decode(frame, CLAIM))).toBeInstanceOf(UnsupportedPayloadError)
  })
})

describe('options', () => {
  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, '10', undefined])(
    'maxBytes can not be %s',
    (maxBytes) => {
      const options = { maxBytes } as unknown as { maxBytes: number }
      expect(() => new PayloadCodec(options)).toThrow(ConfigurationError)
    },
  )

  test.each(['gzip', '', null, 1])('compression can not be %s', (compression) => {
    const options = { compression, maxBytes: 10 } as unknown as { maxBytes: number }
    expect(() => new PayloadCodec(options)).toThrow(ConfigurationError)
  })
})
