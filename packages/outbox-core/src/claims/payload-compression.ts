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
import { ConfigurationError } from '../errors.ts'
import { CorruptPayloadError, UnsupportedPayloadError } from './payload-errors.ts'

export type Compression = 'zstd' | 'deflate' | 'none'

/** Bytes as they are stored, and the codec that reads them. */
export interface Compressed {
  readonly codec: number
  readonly bytes: Uint8Array
}

/** What zlib returns when asked for `info`. */
interface Inflated {
  readonly buffer: Uint8Array
  /** Its `bytesWritten` counts the input that was used. */
  readonly engine: { readonly bytesWritten: number }
}

interface Codec {
  readonly id: number
  compress(raw: Uint8Array): Uint8Array
  compressAsync(raw: Uint8Array): Promise<Uint8Array>
  inflate(bytes: Uint8Array, limits: object): unknown
  inflateAsync(bytes: Uint8Array, limits: object): Promise<unknown>
  /** What may follow the end of the compressed data. */
  readonly tail?: Buffer
}

const STORED = 0

// Below this saving the time to decompress is not worth it.
const WORTHWHILE = 0.9

// zlib refuses smaller ones.
const LEAST_CHUNK_BYTES = 64

/*
 * When its output fills a chunk exactly, Node asks zstd for more, and gets a second frame, of nothing. So the one chunk
 * has room for more than what is kept at all. Pages of it that stay empty cost no memory.
 */
function zstdOptions(rawBytes: number): object {
  return {
    params: { [constants.ZSTD_c_compressionLevel]: 1 },
    chunkSize: Math.max(LEAST_CHUNK_BYTES, Math.floor(rawBytes * WORTHWHILE) + 1),
  }
}

// What earlier releases stored after payloads of k * 16,384 bytes: magic, header, and a last block of nothing.
const EMPTY_ZSTD_FRAME = Buffer.from('28b52ffd2000010000', 'hex')

// Level 1 has windows of up to 2^19 bytes. A made-up frame could otherwise ask for 128 MiB, whatever it holds.
const ZSTD_LIMITS = { params: { [constants.ZSTD_d_windowLogMax]: 23 } }
const zstdAsync = promisify<Uint8Array, object, Buffer>(zstdCompress)
const unzstdAsync = promisify<Uint8Array, object, unknown>(zstdDecompress)

const ZSTD: Codec = {
  id: 1,
  compress: (raw) => zstdCompressSync(raw, zstdOptions(raw.byteLength)),
  compressAsync: (raw) => zstdAsync(raw, zstdOptions(raw.byteLength)),
  inflate: (bytes, limits) => zstdDecompressSync(bytes, { ...limits, ...ZSTD_LIMITS }),
  inflateAsync: (bytes, limits) => unzstdAsync(bytes, { ...limits, ...ZSTD_LIMITS }),
  tail: EMPTY_ZSTD_FRAME,
}

const DEFLATE_OPTIONS = { level: 1 }
const deflateAsync = promisify<Uint8Array, object, Buffer>(deflateRaw)
const inflateAsync = promisify<Uint8Array, object, unknown>(inflateRaw)

const DEFLATE: Codec = {
  id: 2,
  compress: (raw) => deflateRawSync(raw, DEFLATE_OPTIONS),
  compressAsync: (raw) => deflateAsync(raw, DEFLATE_OPTIONS),
  inflate: (bytes, limits) => inflateRawSync(bytes, limits),
  inflateAsync: (bytes, limits) => inflateAsync(bytes, limits),
}

// A thread pool job costs about as much as compressing this much (measured: some 65 µs).
export const COMPRESSED_AT_ONCE_BYTES: number = 64 * 1024

/** @throws ConfigurationError */
export function checkedCompression(compression: Compression): Compression {
  if (compression === 'zstd' || compression === 'deflate' || compression === 'none') return compression
  throw new ConfigurationError('compression', compression, "it must be 'zstd', 'deflate' or 'none'")
}

/**
 * The bytes as they will be stored: the raw ones when compressing saves too little, so never more than the raw ones.
 * A promise from 64 KiB on.
 */
export function compress(compression: Compression, raw: Uint8Array): Compressed | Promise<Compressed> {
  const codec = compression === 'zstd' ? ZSTD : compression === 'deflate' ? DEFLATE : undefined
  if (raw.byteLength >= COMPRESSED_AT_ONCE_BYTES) return compressAsync(codec, raw)
  return codec ? smaller(codec, codec.compress(raw), raw) : { codec: STORED, bytes: raw }
}

async function compressAsync(codec: Codec | undefined, raw: Uint8Array): Promise<Compressed> {
  return codec ? smaller(codec, await codec.compressAsync(raw), raw) : { codec: STORED, bytes: raw }
}

function smaller({ id }: Codec, bytes: Uint8Array, raw: Uint8Array): Compressed {
  const worthwhile = bytes.byteLength <= raw.byteLength * WORTHWHILE
  return worthwhile ? { codec: id, bytes } : { codec: STORED, bytes: raw }
}

/**
 * Exactly `rawBytes` bytes, copied or decompressed, or an error; never allocates for more. A promise from 64 KiB on.
 *
 * @throws CorruptPayloadError, UnsupportedPayloadError
 */
export function decompress(
  codecId: number,
  bytes: Uint8Array,
  rawBytes: number,
): Uint8Array | Promise<Uint8Array> {
  const codec = codecFor(codecId)
  assertPlausible(codec, bytes.byteLength, rawBytes)
  if (rawBytes >= COMPRESSED_AT_ONCE_BYTES) return decompressAsync(codec, bytes, rawBytes)
  if (!codec) return Buffer.from(bytes)
  return exact(
    codec,
    rescued(() => codec.inflate(bytes, limits(rawBytes))),
    bytes,
    rawBytes,
  )
}

async function decompressAsync(
  codec: Codec | undefined,
  bytes: Uint8Array,
  rawBytes: number,
): Promise<Uint8Array> {
  if (!codec) return Buffer.from(bytes)
  const inflated = await codec.inflateAsync(bytes, limits(rawBytes)).catch(fail)
  return exact(codec, inflated, bytes, rawBytes)
}

function codecFor(id: number): Codec | undefined {
  if (id === STORED) return undefined
  if (id === ZSTD.id) return ZSTD
  if (id === DEFLATE.id) return DEFLATE
  throw new UnsupportedPayloadError(
    `the payload was stored with codec ${id}, which this release does not know`,
  )
}

// `compress` never makes anything larger.
function assertPlausible(codec: Codec | undefined, storedBytes: number, rawBytes: number): void {
  if (codec ? storedBytes < rawBytes : storedBytes === rawBytes) return
  throw new CorruptPayloadError(
    `the payload says it has ${rawBytes} bytes, but its frame holds ${storedBytes}`,
  )
}

// Only the one-shot calls keep to `maxOutputLength`. With one byte to spare, a single buffer takes all the output.
function limits(rawBytes: number): object {
  return { maxOutputLength: rawBytes, chunkSize: Math.max(LEAST_CHUNK_BYTES, rawBytes + 1), info: true }
}

function rescued(inflate: () => unknown): unknown {
  try {
    return inflate()
  } catch (error) {
    return fail(error)
  }
}

function fail(cause: unknown): never {
  throw new CorruptPayloadError('the payload does not decompress to what its frame says', { cause })
}

// zlib ignores what follows the end of the compressed data.
function exact(codec: Codec, inflated: unknown, bytes: Uint8Array, rawBytes: number): Uint8Array {
  const { buffer, engine } = inflated as Inflated
  if (buffer.byteLength !== rawBytes) {
    throw new CorruptPayloadError(`the payload says it has ${rawBytes} bytes, but holds ${buffer.byteLength}`)
  }
  const left = bytes.subarray(engine.bytesWritten)
  if (left.byteLength > 0 && !codec.tail?.equals(left)) {
    throw new CorruptPayloadError(`the payload ends ${left.byteLength} bytes before its frame`)
  }
  return buffer
}
