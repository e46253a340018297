import { crc32 } from 'node:zlib'
import { wholeNumber } from '../options.ts'
import {
  type Compressed,
  type Compression,
  checkedCompression,
  compress,
  decompress,
} from './payload-compression.ts'
import { type EncryptionOptions, KeyRing, SEAL_BYTES } from './payload-encryption.ts'
import { CorruptPayloadError, PayloadTooLargeError, UnsupportedPayloadError } from './payload-errors.ts'

export type { EncryptionOptions } from './payload-encryption.ts'

export interface PayloadCodecOptions {
  /** @default 'zstd' */
  readonly compression?: Compression | undefined
  readonly encryption?: EncryptionOptions
  /** Largest payload, in bytes before compression: from 1 to 2147483647. */
  readonly maxBytes: number
}

/*
 * The frame, version 1; numbers are big-endian. Later versions keep the first eight bytes as they are.
 *
 *   0  2  magic 0x4f 0x53 ("OS")
 *   2  1  version
 *   3  1  codec of the payload: 0 stored, 1 zstd, 2 deflate
 *   4  4  CRC-32 of everything else in the frame
 *   8  4  length of the payload before compression
 *  12  1  length of the key id; 0 when not encrypted
 *  13  n  key id, ASCII
 *         body: the payload, compressed; when encrypted, IV (12) and authentication tag (16) before it
 *
 * CRC-32 detects every damage that spans up to 32 bits, for certain, and costs a quarter of a SHA-256. What gets past it
 * would still have to decompress to exactly the declared length and end exactly where the frame does; so every
 * truncation and extension shows without it, too. Against someone who writes frames on purpose only encryption helps.
 */
const MAGIC = 0x4f53
const VERSION = 1
const VERSION_AT = 2
const CODEC_AT = 3
const CHECKSUM_AT = 4
const RAW_BYTES_AT = 8
const KEY_ID_BYTES_AT = 12
const HEADER_BYTES = 13

// What Node's ciphers take at once.
const MOST_BYTES = 2 ** 31 - 1

interface Frame {
  readonly codec: number
  readonly rawBytes: number
  /** Empty when not encrypted. */
  readonly keyId: string
  readonly header: Buffer
  readonly body: Buffer
}

/** Payload bytes as they are stored: self-describing, compressed, checked, and encrypted where there is a key. */
export class PayloadCodec {
  /** The most bytes a frame can have. */
  readonly maxFrameBytes: number
  readonly #compression: Compression
  readonly #keys: KeyRing | undefined
  readonly #maxBytes: number

  /** @throws ConfigurationError */
  constructor({ compression = 'zstd', encryption, maxBytes }: PayloadCodecOptions) {
    this.#compression = checkedCompression(compression)
    this.#keys = encryption === undefined ? undefined : new KeyRing(encryption)
    this.#maxBytes = wholeNumber('maxBytes', maxBytes, 1, MOST_BYTES)
    const sealing = this.#keys ? this.#keys.current.length + SEAL_BYTES : 0
    this.maxFrameBytes = HEADER_BYTES + sealing + maxBytes
  }

  /**
   * Frames a payload for its claim. Returns the frame at once below 64 KiB of payload, else a promise; `raw` must not
   * change before it resolves. The frame shares memory with nothing, not even with Node's buffer pool.
   *
   * @throws PayloadTooLargeError
   */
  encode(raw: Uint8Array, claimId: string): Uint8Array | Promise<Uint8Array> {
    if (raw.byteLength > this.#maxBytes) {
      throw new PayloadTooLargeError(
        this.#maxBytes,
        raw.byteLength,
        'raise maxPayloadBytes or keep less in it',
      )
    }
    const compressed = compress(this.#compression, raw)
    return compressed instanceof Promise
      ? compressed.then((result) => this.#frame(result, raw.byteLength, claimId))
      : this.#frame(compressed, raw.byteLength, claimId)
  }

  /**
   * The payload in a frame that was made for this claim. Returns it at once below 64 KiB, else a promise. Never more
   * than `maxBytes`, never other bytes than were framed. It shares no bytes with `frame`, but may be a view on a larger
   * buffer, as Node's own Buffers are: go by `byteOffset` and `byteLength`.
   *
   * @throws CorruptPayloadError, UnsupportedPayloadError, PayloadAuthenticationError, UnknownKeyError: at once where
   *   the frame itself shows it, by rejection where only decompressing does
   */
  decode(frame: Uint8Array, claimId: string): Uint8Array | Promise<Uint8Array> {
    const parsed = parse(Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength))
    const { codec, rawBytes, keyId, body } = parsed
    if (rawBytes > this.#maxBytes) {
      throw new CorruptPayloadError(
        `the payload says it has ${rawBytes} bytes, the limit is ${this.#maxBytes}`,
      )
    }
    if (keyId === '') {
      this.#keys?.assertPlaintextAllowed()
      return decompress(codec, body, rawBytes)
    }
    // Decrypting takes as much memory as the body has; compressing never makes it larger than the payload.
    if (body.byteLength > rawBytes + SEAL_BYTES) {
      throw new CorruptPayloadError(
        `the payload says it has ${rawBytes} bytes, but its frame holds ${body.byteLength}`,
      )
    }
    return decompress(codec, KeyRing.open(this.#keys, keyId, body, bound(parsed.header, claimId)), rawBytes)
  }

  #frame({ codec, bytes }: Compressed, rawBytes: number, claimId: string): Uint8Array {
    const keyId = this.#keys?.current ?? ''
    const bodyAt = HEADER_BYTES + keyId.length
    const bodyBytes = bytes.byteLength + (this.#keys ? SEAL_BYTES : 0)
    const frame = Buffer.allocUnsafeSlow(bodyAt + bodyBytes)
    frame.writeUInt16BE(MAGIC, 0)
    frame.writeUInt8(VERSION, VERSION_AT)
    frame.writeUInt8(codec, CODEC_AT)
    frame.writeUInt32BE(rawBytes, RAW_BYTES_AT)
    frame.writeUInt8(keyId.length, KEY_ID_BYTES_AT)
    frame.write(keyId, HEADER_BYTES, 'latin1')
    let at = bodyAt
    for (const part of this.#keys?.seal(bytes, bound(frame.subarray(0, bodyAt), claimId)) ?? [bytes]) {
      frame.set(part, at)
      at += part.byteLength
    }
    frame.writeUInt32BE(checksum(frame), CHECKSUM_AT)
    return frame
  }
}

function parse(frame: Buffer): Frame {
  const { byteLength } = frame
  if (byteLength < HEADER_BYTES || frame.readUInt16BE(0) !== MAGIC) {
    throw new CorruptPayloadError(`the ${byteLength} stored bytes are no payload frame`)
  }
  if (frame.readUInt32BE(CHECKSUM_AT) !== checksum(frame)) {
    throw new CorruptPayloadError(`the checksum of the payload's ${byteLength} stored bytes does not match`)
  }
  const version = frame.readUInt8(VERSION_AT)
  if (version !== VERSION) {
    throw new UnsupportedPayloadError(
      `the payload has frame version ${version}, this release reads ${VERSION}`,
    )
  }
  const bodyAt = HEADER_BYTES + frame.readUInt8(KEY_ID_BYTES_AT)
  if (bodyAt > byteLength) throw new CorruptPayloadError('the payload frame ends within its key id')
  return {
    codec: frame.readUInt8(CODEC_AT),
    rawBytes: frame.readUInt32BE(RAW_BYTES_AT),
    keyId: frame.toString('latin1', HEADER_BYTES, bodyAt),
    header: frame.subarray(0, bodyAt),
    body: frame.subarray(bodyAt),
  }
}

function checksum(frame: Buffer): number {
  return crc32(frame.subarray(RAW_BYTES_AT), crc32(frame.subarray(0, CHECKSUM_AT)))
}

// Binds an encrypted body to its claim and to what its frame says of it. The checksum is known only after encrypting.
function bound(header: Buffer, claimId: string): Buffer {
  return Buffer.concat([header.subarray(0, CHECKSUM_AT), header.subarray(RAW_BYTES_AT), Buffer.from(claimId)])
}
