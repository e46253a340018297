import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import {
  ConfigurationError,
  CorruptPayloadError,
  PayloadAuthenticationError,
  UnknownKeyError,
} from '../errors.ts'

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

/** The keys of one codec. */
export class KeyRing {
  readonly current: string
  readonly #keys: ReadonlyMap<string, Uint8Array>
  readonly #allowPlaintext: boolean

  /** @throws ConfigurationError */
  constructor({ current, keys, allowPlaintext = false }: EncryptionOptions) {
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

  /** IV, tag and encrypted body. */
  seal(body: Uint8Array, associated: Uint8Array): readonly Uint8Array[] {
    const key = this.#keys.get(this.current) as Uint8Array
    const iv = randomBytes(IV_BYTES)
    const cipher = createCipheriv(ALGORITHM, key, iv, { authTagLength: TAG_BYTES })
    cipher.setAAD(associated)
    const encrypted = Buffer.concat([cipher.update(body), cipher.final()])
    return [iv, cipher.getAuthTag(), encrypted]
  }

  /**
   * The body as it was before `seal`; an empty `keyId` says that it was not sealed.
   *
   * @throws PayloadAuthenticationError, UnknownKeyError, CorruptPayloadError
   */
  static open(ring: KeyRing | undefined, keyId: string, body: Buffer, associated: Uint8Array): Buffer {
    if (keyId === '') {
      if (!ring || ring.#allowPlaintext) return body
      throw new PayloadAuthenticationError(
        'the payload is not encrypted; set allowPlaintext to read older ones',
      )
    }
    const key = ring === undefined ? undefined : ring.#keys.get(keyId)
    if (!key)
      throw new UnknownKeyError(`the payload needs key "${printable(keyId)}"; add it to encryption.keys`)
    if (body.byteLength < IV_BYTES + TAG_BYTES)
      throw new CorruptPayloadError('the encrypted payload is cut short')
    const decipher = createDecipheriv(ALGORITHM, key, body.subarray(0, IV_BYTES), {
      authTagLength: TAG_BYTES,
    })
    decipher.setAAD(associated)
    decipher.setAuthTag(body.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
    try {
      return Buffer.concat([decipher.update(body.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
    } catch (cause) {
      throw new PayloadAuthenticationError(
        `the payload does not authenticate with key "${keyId}": wrong key, changed bytes, or bytes of another claim`,
        { cause },
      )
    }
  }
}

function checkedId(id: string): string {
  if (/^[A-Za-z0-9_.:-]{1,64}$/.test(id)) return id
  throw new ConfigurationError('encryption.keys', id, 'a key id has 1 to 64 letters, digits, _ . : or -')
}

function checkedKey(id: string, key: Uint8Array): Uint8Array {
  if (key instanceof Uint8Array && key.byteLength === KEY_BYTES) return Uint8Array.from(key)
  throw new ConfigurationError('encryption.keys', id, `its key must be a Uint8Array of ${KEY_BYTES} bytes`)
}

function printable(id: string): string {
  return id.replace(/[^\x21-\x7e]/g, '?')
}
