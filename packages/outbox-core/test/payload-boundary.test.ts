import { constants, zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { CorruptPayloadError } from '../src/claims/payload-errors.ts'
import { PayloadCodec } from '../src/claims/payload-frame.ts'
import { bytesOf, DEFLATE, failure, forge, STORED, ZSTD } from './forged-frame.ts'

const CHUNK = 16_384
const BORDER = 64 * 1024
const CLAIM = 'claim-1'
const MAX_BYTES = 1024 * 1024
const EMPTY_ZSTD_FRAME = Buffer.from('28b52ffd2000010000', 'hex')
const ENCRYPTION = { current: 'k1', keys: { k1: Buffer.alloc(32, 7) } }
const HEADER_BYTES = 13
const SEALED_HEADER_BYTES = HEADER_BYTES + 2 + 28

/** Bytes that compress to some 78 %, each one more by about as much. */
function dense(length: number, seed: number): Uint8Array {
  return bytesOf('noise', length, seed).map((byte) => 32 + (byte % 75))
}

/** Payloads whose compressed sizes are all those around a size, each with its frame. */
async function* around(codec: PayloadCodec, headerBytes: number, size: number, reach: number) {
  for (let seed = 1, missing = new Set(sizes(size, reach)); missing.size > 0 && seed < 20; seed += 1) {
    const raw = dense(Math.ceil(size / 0.7), seed)
    const sizeOf = async (length: number): Promise<number> =>
      (await codec.encode(raw.subarray(0, length), CLAIM)).byteLength - headerBytes
    let [low, high] = [0, raw.byteLength]
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if ((await sizeOf(middle)) < size - reach) low = middle
      else high = middle
    }
    for (let length = high - 2; length < high + 4 * reach; length += 1) {
      const payload = raw.subarray(0, length)
      const frame = await codec.encode(payload, CLAIM)
      missing.delete(frame.byteLength - headerBytes)
      yield { payload, frame, size: frame.byteLength - headerBytes }
    }
  }
}

function sizes(middle: number, reach: number): number[] {
  return Array.from({ length: 2 * reach + 1 }, (_, index) => middle - reach + index)
}

describe.each(['zstd', 'deflate'] as const)('%s that fills whole chunks of its output', (compression) => {
  test.each([
    ['sync', 'plain', [1, 2, 3]],
    ['sync', 'encrypted', [1, 2, 3]],
    ['async', 'plain', [4, 5, 8]],
    ['async', 'encrypted', [4, 5, 8]],
  ] as const)('%s, %s: is read back whatever its size', async (_way, sealing, chunks) => {
    const encrypted = sealing === 'encrypted'
    const codec = new PayloadCodec({
      compression,
      maxBytes: MAX_BYTES,
      ...(encrypted && { encryption: ENCRYPTION }),
    })
    for (const count of chunks) {
      const seen = new Set<number>()
      const headerBytes = encrypted ? SEALED_HEADER_BYTES : HEADER_BYTES
      for await (const { payload, frame, size } of around(codec, headerBytes, count * CHUNK, 12)) {
        expect(frame[3]).toBe(compression === 'zstd' ? ZSTD : DEFLATE)
        expect(payload.byteLength < BORDER).toBe(count < 4)
        expect(Buffer.compare(await codec.decode(frame, CLAIM), payload), `${size}`).toBe(0)
        if (!encrypted) expect(EMPTY_ZSTD_FRAME.equals(frame.subarray(-9)), `${size}`).toBe(false)
        seen.add(size)
      }
      expect([...seen]).toEqual(expect.arrayContaining(sizes(count * CHUNK, 12)))
    }
  })

  test.each([64, 71, 200, 10_000, 60_000, 70_000])(
    'saving just enough, or not, of %d bytes',
    async (length) => {
      const codec = new PayloadCodec({ compression, maxBytes: MAX_BYTES })
      const kept = new Set<number | undefined>()
      const noise = bytesOf('noise', length)
      for (let zeros = 0; zeros < 70 + length * 0.2; zeros += Math.max(1, Math.round(length / 5_000))) {
        const raw = Uint8Array.from(noise).fill(0, 0, zeros)
        const frame = await codec.encode(raw, CLAIM)
        expect(Buffer.compare(await codec.decode(frame, CLAIM), raw)).toBe(0)
        kept.add(frame[3])
      }
      expect([...kept].toSorted()).toEqual([STORED, compression === 'zstd' ? ZSTD : DEFLATE])
    },
  )
})

describe('an empty frame after the payload, as Node appends it', () => {
  const params = { [constants.ZSTD_c_compressionLevel]: 1 }
  const squeezed = (raw: Uint8Array): Buffer => zstdCompressSync(raw, { params, chunkSize: MAX_BYTES })
  const stored = (raw: Uint8Array, tail: Uint8Array, sealed = false): Buffer =>
    forge({
      codec: ZSTD,
      rawBytes: raw.byteLength,
      body: Buffer.concat([squeezed(raw), tail]),
      ...(sealed && { encryption: ENCRYPTION, claimId: CLAIM }),
    })
  const plain = new PayloadCodec({ maxBytes: MAX_BYTES })
  const sealed = new PayloadCodec({ maxBytes: MAX_BYTES, encryption: ENCRYPTION })

  test.each([1_000, 30_000, BORDER - 1, BORDER, 200_000])('is read: %d bytes', async (length) => {
    const raw = dense(length, 3)
    const decoded = await plain.decode(stored(raw, EMPTY_ZSTD_FRAME), CLAIM)
    expect(Buffer.compare(decoded, raw)).toBe(0)
    const opened = await sealed.decode(stored(raw, EMPTY_ZSTD_FRAME, true), CLAIM)
    expect(Buffer.compare(opened, raw)).toBe(0)
  })

  test.each([30_000, 200_000])('cut or changed, it is damage: %d bytes', async (length) => {
    const raw = dense(length, 3)
    const tails = [
      ...Array.from({ length: 5 }, (_, bytes) => EMPTY_ZSTD_FRAME.subarray(0, bytes + 4)),
      ...Array.from(EMPTY_ZSTD_FRAME, (byte, at) => Buffer.from(EMPTY_ZSTD_FRAME).fill(byte ^ 1, at, at + 1)),
      Buffer.concat([EMPTY_ZSTD_FRAME, Buffer.alloc(1)]),
      Buffer.concat([Buffer.alloc(1), EMPTY_ZSTD_FRAME]),
      squeezed(Buffer.from('x')),
      Buffer.alloc(9),
    ]
    for (const tail of tails) {
      const error = await failure(() => plain.decode(stored(raw, tail), CLAIM))
      expect(error, tail.toString('hex')).toBeInstanceOf(CorruptPayloadError)
    }
  })

  // Node 26 reads one frame after the other by itself, and ends quietly in the first bytes of a magic number.
  test.each([30_000, 200_000])(
    'repeated, or only begun, it is damage or nothing, never other bytes: %d',
    async (length) => {
      const raw = dense(length, 3)
      const begun = [1, 2, 3].map((bytes) => EMPTY_ZSTD_FRAME.subarray(0, bytes))
      for (const tail of [...begun, Buffer.concat([EMPTY_ZSTD_FRAME, EMPTY_ZSTD_FRAME])]) {
        const read = async (): Promise<Uint8Array> => plain.decode(stored(raw, tail), CLAIM)
        const bytes = await read().catch((error: unknown) => {
          expect(error).toBeInstanceOf(CorruptPayloadError)
          return raw
        })
        expect(Buffer.compare(bytes, raw), tail.toString('hex')).toBe(0)
      }
    },
  )

  test('says nothing of deflate, nor of what is not compressed', async () => {
    const raw = dense(1_000, 3)
    const deflated = await new PayloadCodec({ compression: 'deflate', maxBytes: MAX_BYTES }).encode(
      raw,
      CLAIM,
    )
    const bodies = [
      [DEFLATE, deflated.subarray(HEADER_BYTES)],
      [STORED, raw],
    ] as const
    for (const [codec, bytes] of bodies) {
      const body = Buffer.concat([bytes, EMPTY_ZSTD_FRAME])
      const frame = forge({ codec, rawBytes: raw.byteLength, body })
      expect(await failure(() => plain.decode(frame, CLAIM))).toBeInstanceOf(CorruptPayloadError)
    }
  })
})
