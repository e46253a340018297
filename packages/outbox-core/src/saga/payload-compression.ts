import { promisify } from 'node:util'
import {
  constants,
  deflateRaw,
  deflateRawSync,
  inflateRaw,
  inflateRawSync,
  zstdCompress,
  zstdCompressSync,
  zstdDecompress,
  zstdDecompressSync,
} from 'node:zlib'
import { ConfigurationError, CorruptPayloadError, UnsupportedPayloadError } from '../errors.ts'

export type Compression = 'zstd' | 'deflate' | 'none'

interface Bytes {
  readonly codec: number
  readonly bytes: Uint8Array
}

const STORED = 0
const ZSTD = 1
const DEFLATE = 2

// A thread pool job costs about as much as compressing this much (measured: some 65 µs).
const SYNC_BELOW_BYTES = 64 * 1024

// Below this saving the time to decompress is not worth it.
const WORTHWHILE = 0.9

const ZSTD_OPTIONS = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }
const DEFLATE_OPTIONS = { level: 1 }

const zstdCompressAsync = promisify<Uint8Array, object, Buffer>(zstdCompress)
const zstdDecompressAsync = promisify<Uint8Array, object, Buffer>(zstdDecompress)
const deflateAsync = promisify<Uint8Array, object, Buffer>(deflateRaw)
const inflateAsync = promisify<Uint8Array, object, Buffer>(inflateRaw)

/** @throws ConfigurationError */
export function checkedCompression(compression: Compression): Compression {
  if (compression === 'zstd' || compression === 'deflate' || compression === 'none') return compression
  throw new ConfigurationError('compression', compression, "it must be 'zstd', 'deflate' or 'none'")
}

/** The bytes as they will be stored, and the codec that reads them; the raw ones when compressing saves too little. */
export function compress(compression: Compression, raw: Uint8Array): Bytes | Promise<Bytes> {
  const best = (codec: number, bytes: Uint8Array): Bytes =>
    bytes.byteLength <= raw.byteLength * WORTHWHILE ? { codec, bytes } : { codec: STORED, bytes: raw }
  const now = raw.byteLength < SYNC_BELOW_BYTES
  switch (compression) {
    case 'none':
      return { codec: STORED, bytes: raw }
    case 'zstd':
      return now
        ? best(ZSTD, zstdCompressSync(raw, ZSTD_OPTIONS))
        : zstdCompressAsync(raw, ZSTD_OPTIONS).then((bytes) => best(ZSTD, bytes))
    case 'deflate':
      return now
        ? best(DEFLATE, deflateRawSync(raw, DEFLATE_OPTIONS))
        : deflateAsync(raw, DEFLATE_OPTIONS).then((bytes) => best(DEFLATE, bytes))
  }
}

/** Exactly `rawBytes` bytes, or an error; never allocates for more. */
export function decompress(
  codec: number,
  bytes: Uint8Array,
  rawBytes: number,
): Uint8Array | Promise<Uint8Array> {
  const exact = (raw: Uint8Array): Uint8Array => {
    if (raw.byteLength === rawBytes) return raw
    throw new CorruptPayloadError(`the payload says it has ${rawBytes} bytes, but holds ${raw.byteLength}`)
  }
  if (codec === STORED) return exact(bytes)
  if (codec !== ZSTD && codec !== DEFLATE) {
    throw new UnsupportedPayloadError(
      `the payload was stored with codec ${codec}, which this release does not know`,
    )
  }
  // zlib takes no limit of 0, and only the one-shot calls keep it.
  const options = { maxOutputLength: Math.max(1, rawBytes) }
  if (rawBytes < SYNC_BELOW_BYTES) {
    try {
      return exact(codec === ZSTD ? zstdDecompressSync(bytes, options) : inflateRawSync(bytes, options))
    } catch (error) {
      throw corrupt(error)
    }
  }
  const raw = codec === ZSTD ? zstdDecompressAsync(bytes, options) : inflateAsync(bytes, options)
  return raw.then(exact).catch((error) => {
    throw corrupt(error)
  })
}

function corrupt(error: unknown): CorruptPayloadError {
  if (error instanceof CorruptPayloadError) return error
  return new CorruptPayloadError('the payload does not decompress to what its frame says', { cause: error })
}
