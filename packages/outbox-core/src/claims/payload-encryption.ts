import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { types } from 'node:util'
import { ConfigurationError } from '../errors.ts'
import { CorruptPayloadError, PayloadAuthenticationError, UnknownKeyError } from './payload-errors.ts'

/** Keys for AES-256-GCM. To rotate: add a key, make it `current`, remove the old one when its payloads are gone. */
export interface EncryptionOptions {
  /** Id of the key that encrypts from now on. */
  readonly current: string
  /** Every key that may still be needed to read, 32 bytes each, by id: 1 to 64 letters, digits, _ . : or -. */
  readonly keys: Readonly<Record<string, Uint8Array>>
  /**
   * Reads payloads that were stored before encryption was switched on. Whoever can write to the database can then
   * pass off plain bytes as a payload.
   * @default false
   */
  readonly allowPlaintext?: boolean
}

const ALGORITHM = 'aes-256-gcm'
const KEY_BYTES = 32
const IV_BYTES = 12
const TAG_BYTES = 16

/** What sealing adds to a body: IV and authentication tag. */
export const SEAL_BYTES: number = IV_BYTES + TAG_BYTES

/** The keys of one codec, its own copies. */
export class KeyRing {
  readonly current: string
  readonly #keys: ReadonlyMap<string, KeyObject>
  readonly #allowPlaintext: boolean

  /** @throws ConfigurationError */
  constructor(options: EncryptionOptions) {
    const { current, keys, allowPlaintext = false } = checkedOptions(options)
    this.#keys = new Map(Object.entries(keys).map(([id, key]) => [checkedId(id), checkedKey(id, key)]))
    if (!this.#keys.has(current)) {
      throw new ConfigurationError(
        'encryption.current',
        current,
        'it must be the id of one of encryption.keys',
      )
    }
    this.current = current
    this.#allowPlaintext = allowPlaintext
  }

  /** IV, tag and encrypted body. `bound` has to be the same when the body is opened. */
  seal(body: Uint8Array, bound: Uint8Array): readonly Uint8Array[] {
    const key = this.#keys.get(this.current) as KeyObject
    const iv = randomBytes(IV_BYTES)
    const cipher = createCipheriv(ALGORITHM, key, iv, { authTagLength: TAG_BYTES })
    cipher.setAAD(bound)
    const encrypted = cipher.update(body)
    // Nothing more comes out of a stream cipher, but the tag exists only from here on.
    cipher.final()
    return [iv, cipher.getAuthTag(), encrypted]
  }

  /** @throws PayloadAuthenticationError when a payload that was not sealed may not be read */
  assertPlaintextAllowed(): void {
    if (this.#allowPlaintext) return
    throw new PayloadAuthenticationError(
      'the payload is not encrypted, but encryption is on; set encryption.allowPlaintext to read older ones',
    )
  }

  /**
   * The body as it was before `seal`. Without a ring no key is known.
   *
   * @throws PayloadAuthenticationError, UnknownKeyError, CorruptPayloadError
   */
  static open(ring: KeyRing | undefined, keyId: string, sealed: Uint8Array, bound: Uint8Array): Uint8Array {
    const key = ring === undefined ? undefined : ring.#keys.get(keyId)
    if (!key) {
      throw new UnknownKeyError(`the payload needs key "${printable(keyId)}"; add it to encryption.keys`)
    }
    if (sealed.byteLength < SEAL_BYTES) {
      throw new CorruptPayloadError(
        `the encrypted payload has ${sealed.byteLength} bytes, fewer than any can have`,
      )
    }
    const iv = sealed.subarray(0, IV_BYTES)
    const decipher = createDecipheriv(ALGORITHM, key, iv, { authTagLength: TAG_BYTES })
    decipher.setAAD(bound)
    decipher.setAuthTag(sealed.subarray(IV_BYTES, SEAL_BYTES))
    const body = decipher.update(sealed.subarray(SEAL_BYTES))
    try {
      decipher.final()
    } catch (cause) {
      throw new PayloadAuthenticationError(
        `the payload does not authenticate with key "${keyId}": wrong key, changed bytes, or bytes of another claim`,
        { cause },
      )
    }
    return body
  }
}

function checkedOptions(options: EncryptionOptions): EncryptionOptions {
  if (typeof options !== 'object' || options === null) {
    throw new ConfigurationError('encryption', options, 'it must be an object with current and keys')
  }
  const { keys, allowPlaintext } = options
  if (typeof keys !== 'object' || keys === null) {
    throw new ConfigurationError('encryption.keys', keys, 'it must be an object with keys by their id')
  }
  if (allowPlaintext !== undefined && typeof allowPlaintext !== 'boolean') {
    throw new ConfigurationError('encryption.allowPlaintext', allowPlaintext, 'it must be true or false')
  }
  return options
}

function checkedId(id: string): string {
  if (/^[A-Za-z0-9_.:-]{1,64}$/.test(id)) return id
  throw new ConfigurationError('encryption.keys', id, 'a key id has 1 to 64 letters, digits, _ . : or -')
}

// Node prepares a KeyObject once, but bytes at every use: three times the cost of encrypting a small payload.
function checkedKey(id: string, key: Uint8Array): KeyObject {
  if (types.isUint8Array(key) && key.byteLength === KEY_BYTES) return createSecretKey(key)
  throw new ConfigurationError('encryption.keys', id, `its key must be a Uint8Array of ${KEY_BYTES} bytes`)
}

function printable(id: string): string {
  return id.replace(/[^\x21-\x7e]/g, '?')
}
