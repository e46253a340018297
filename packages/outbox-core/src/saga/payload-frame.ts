import { crc32 } from 'node:zlib'
import { CorruptPayloadError, PayloadTooLargeError, UnsupportedPayloadError } from '../errors.ts'
import { type Compression, checkedCompression, compress, decompress } from './payload-compression.ts'
import { type EncryptionOptions, KeyRing } from './payload-encryption.ts'

export type { EncryptionOptions } from './payload-encryption.ts'

export interface PayloadCodecOptions {
  /** @default 'zstd' */
  readonly compression?: Compression
  readonly encryption?: EncryptionOptions
  /** Largest payload, in bytes before compression. */
  readonly maxBytes: number
}

/*
 * The frame, version 1; numbers are big-endian:
 *
 *   0  2  magic 0x4f 0x53 ("OS")
 *   2  1  version
 *   3  1  codec of the body: 0 stored, 1 zstd, 2 deflate
 *   4  1  length of the key id; 0 when not encrypted
 *   5  4  length of the payload before compression
 *   9  4  CRC-32 of everything else in the frame: it detects every error burst of up to 32 bits, so every flipped bit
 *  13  n  key id, ASCII
 *     28  IV and authentication tag, when encrypted
 *         body
 */
const MAGIC = 0x4f53
const VERSION = 1
const CHECKSUM_AT = 9
const HEADER_BYTES = 13

/** Payload bytes as they are stored: self-describing, compressed, checked, and encrypted where there is a key. */
export class PayloadCodec {
  readonly #compression: Compression
  readonly #keys: KeyRing | undefined
  readonly #maxBytes: number

  /** @throws ConfigurationError */
  constructor({ compression = 'zstd', encryption, maxBytes }: PayloadCodecOptions) {
    this.#compression = checkedCompression(compression)
    this.#keys = encryption && new KeyRing(encryption)
    this.#maxBytes = maxBytes
  }

  /**
   * Frames a payload for its claim. Returns at once for small payloads, a promise for large ones.
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
    const body = compress(this.#compression, raw)
    const frame = ({ codec, bytes }: { codec: number; bytes: Uint8Array }): Uint8Array =>
      this.#frame(codec, raw.byteLength, bytes, claimId)
    return body instanceof Promise ? body.then(frame) : frame(body)
  }

  /**
   * The payload in a frame that was made for this claim. Never more than `maxBytes`, never other bytes than were
   * framed.
   *
   * @throws CorruptPayloadError, UnsupportedPayloadError, PayloadAuthenticationError, UnknownKeyError
   */
  decode(frame: Uint8Array, claimId: string): Uint8Array | Promise<Uint8Array> {
    const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength)
    const { codec, rawBytes, keyId, body, header } = this.#parsed(bytes)
    const clear = KeyRing.open(this.#keys, keyId, body, associated(header, claimId))
    return decompress(codec, clear, rawBytes)
  }

  #frame(codec: number, rawBytes: number, body: Uint8Array, claimId: string): Uint8Array {
    const keyId = this.#keys?.current ?? ''
    const header = Buffer.alloc(HEADER_BYTES + keyId.length)
    header.writeUInt16BE(MAGIC, 0)
    header.writeUInt8(VERSION, 2)
    header.writeUInt8(codec, 3)
    header.writeUInt8(keyId.length, 4)
    header.writeUInt32BE(rawBytes, 5)
    header.write(keyId, HEADER_BYTES, 'latin1')
    const sealed = this.#keys ? this.#keys.seal(body, associated(header, claimId)) : [body]
    const frame = Buffer.concat([header, ...sealed])
    frame.writeUInt32BE(checksum(frame), CHECKSUM_AT)
    return frame
  }

  #parsed(frame: Buffer): { codec: number; rawBytes: number; keyId: string; body: Buffer; header: Buffer } {
    if (frame.byteLength < HEADER_BYTES || frame.readUInt16BE(0) !== MAGIC) {
      throw new CorruptPayloadError(`the ${frame.byteLength} stored bytes are no payload frame`)
    }
    if (frame.readUInt32BE(CHECKSUM_AT) !== checksum(frame)) {
      throw new CorruptPayloadError(
        `the checksum of the payload's ${frame.byteLength} stored bytes does not match`,
      )
    }
    const version = frame.readUInt8(2)
    if (version !== VERSION) {
      throw new UnsupportedPayloadError(
        `the payload has frame version ${version}, this release reads ${VERSION}`,
      )
    }
    const rawBytes = frame.readUInt32BE(5)
    if (rawBytes > this.#maxBytes) {
      throw new CorruptPayloadError(
        `the payload says it has ${rawBytes} bytes, the limit is ${this.#maxBytes}`,
      )
    }
    const bodyAt = HEADER_BYTES + frame.readUInt8(4)
    if (bodyAt > frame.byteLength) throw new CorruptPayloadError('the payload frame ends within its header')
    const header = Buffer.from(frame.subarray(0, bodyAt))
    header.writeUInt32BE(0, CHECKSUM_AT)
    const keyId = header.toString('latin1', HEADER_BYTES)
    return { codec: frame.readUInt8(3), rawBytes, keyId, body: frame.subarray(bodyAt), header }
  }
}

function checksum(frame: Buffer): number {
  return crc32(frame.subarray(CHECKSUM_AT + 4), crc32(frame.subarray(0, CHECKSUM_AT)))
}

// Binds the encrypted body to its claim and to what the frame says of it.
function associated(header: Buffer, claimId: string): Buffer {
  return Buffer.concat([header, Buffer.from(claimId)])
}
