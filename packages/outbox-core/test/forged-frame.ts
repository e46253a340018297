import { createRequire } from 'node:module'
import { crc32 } from 'node:zlib'
import type { EncryptionOptions } from '../src/claims/payload-encryption.ts'
import { KeyRing } from '../src/claims/payload-encryption.ts'

/** The codec byte of a frame. */
export const STORED = 0
export const ZSTD = 1
export const DEFLATE = 2

export interface Forgery {
  readonly codec: number
  readonly rawBytes: number
  readonly body: Uint8Array
  readonly version?: number
  readonly encryption?: EncryptionOptions
  readonly claimId?: string
}

/** A frame as someone would write it who knows the format (and the keys), but not the rules. */
export function forge({ codec, rawBytes, body, version = 1, encryption, claimId = '' }: Forgery): Buffer {
  const keyId = encryption?.current ?? ''
  const header = Buffer.alloc(13 + keyId.length)
  header.write('OS')
  header.writeUInt8(version, 2)
  header.writeUInt8(codec, 3)
  header.writeUInt32BE(rawBytes, 8)
  header.writeUInt8(keyId.length, 12)
  header.write(keyId, 13)
  if (!encryption) return resealed(Buffer.concat([header, body]))
  const bound = Buffer.concat([header.subarray(0, 4), header.subarray(8), Buffer.from(claimId)])
  return resealed(Buffer.concat([header, ...new KeyRing(encryption).seal(body, bound)]))
}

/** A copy with the right checksum. */
export function resealed(frame: Uint8Array): Buffer {
  const copy = Buffer.from(frame)
  copy.writeUInt32BE(crc32(copy.subarray(8), crc32(copy.subarray(0, 4))), 4)
  return copy
}

/** A copy for every bit, with that bit flipped. */
export function* bitFlips(frame: Uint8Array): Generator<Buffer> {
  for (let bit = 0; bit < frame.byteLength * 8; bit += 1) {
    const flipped = Buffer.from(frame)
    flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
    yield flipped
  }
}

/** Every shorter frame, and some longer ones. */
export function* resizes(frame: Uint8Array): Generator<Buffer> {
  for (let length = 0; length < frame.byteLength; length += 1) yield Buffer.from(frame.subarray(0, length))
  for (const tail of ['\0', '\xff', 'OS', '\0'.repeat(1000)]) {
    yield Buffer.concat([frame, Buffer.from(tail, 'latin1')])
  }
  yield Buffer.concat([frame, frame])
}

/** What a call throws or its promise rejects with; `undefined` when it succeeds. */
export async function failure(call: () => unknown): Promise<unknown> {
  try {
    await call()
  } catch (error) {
    return error
  }
  return undefined
}

/** Bytes as real payloads have them: `text` repeats itself, `noise` never does, `mixed` is half and half. */
export function bytesOf(kind: 'text' | 'noise' | 'mixed', length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length)
  let state = seed >>> 0 || 1
  for (let at = 0; at < length; at += 1) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    const text = kind === 'text' || (kind === 'mixed' && at % 512 < 256)
    bytes[at] = text ? 97 + (at % (13 + (seed % 7))) : state >>> 24
  }
  return bytes
}

/** The 329 example payloads that GitHub's webhooks are documented with, as JSON bytes. */
export function webhookPayloads(): Uint8Array[] {
  const definitions: { examples: unknown[] }[] = createRequire(import.meta.url)('@octokit/webhooks-examples')
  return definitions.flatMap(({ examples }) =>
    examples.map((example) => Buffer.from(JSON.stringify(example))),
  )
}
