import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { PayloadAuthenticationError, UnknownKeyError } from '../src/claims/payload-errors.ts'
import { type EncryptionOptions, PayloadCodec } from '../src/claims/payload-frame.ts'
import { ConfigurationError } from '../src/errors.ts'
import { bytesOf, failure } from './forged-frame.ts'

const CLAIM = 'claim-1'
const KEYS = { k1: randomBytes(32), k2: randomBytes(32) }
const FIRST: EncryptionOptions = { current: 'k1', keys: { k1: KEYS.k1 } }

function codec(encryption?: EncryptionOptions): PayloadCodec {
  return new PayloadCodec({ maxBytes: 100_000, ...(encryption && { encryption }) })
}

describe('keys', () => {
  const raw = bytesOf('text', 2_000)

  test('the wrong key under the right id', async () => {
    const frame = await codec(FIRST).encode(raw, CLAIM)
    const other = codec({ current: 'k1', keys: { k1: KEYS.k2 } })
    expect(await failure(() => other.decode(frame, CLAIM))).toBeInstanceOf(PayloadAuthenticationError)
  })

  test('a rotated key still reads, and the new one writes', async () => {
    const old = await codec(FIRST).encode(raw, CLAIM)
    const rotated = codec({ current: 'k2', keys: KEYS })
    expect(Buffer.compare(await rotated.decode(old, CLAIM), raw)).toBe(0)
    const fresh = await rotated.encode(raw, CLAIM)
    expect(
      Buffer.compare(await codec({ current: 'k2', keys: { k2: KEYS.k2 } }).decode(fresh, CLAIM), raw),
    ).toBe(0)
    expect(await failure(() => codec(FIRST).decode(fresh, CLAIM))).toBeInstanceOf(UnknownKeyError)
  })

  test('a missing key, and no keys at all', async () => {
    const frame = await codec(FIRST).encode(raw, CLAIM)
    for (const reader of [codec(), codec({ current: 'k2', keys: { k2: KEYS.k2 }, allowPlaintext: true })]) {
      const error = (await failure(() => reader.decode(frame, CLAIM))) as UnknownKeyError
      expect(error).toBeInstanceOf(UnknownKeyError)
      expect(error.message).toContain('"k1"')
    }
  })

  test('ids that objects have by themselves are no keys', async () => {
    for (const id of ['__proto__', 'constructor', 'toString']) {
      const encryption = { current: id, keys: Object.fromEntries([[id, KEYS.k1]]) }
      const frame = await codec(encryption).encode(raw, CLAIM)
      expect(Buffer.compare(await codec(encryption).decode(frame, CLAIM), raw)).toBe(0)
      expect(await failure(() => codec(FIRST).decode(frame, CLAIM))).toBeInstanceOf(UnknownKeyError)
    }
  })

  test('are copied', async () => {
    const key = Buffer.from(KEYS.k1)
    const keys: Record<string, Uint8Array> = { k1: key }
    const subject = codec({ current: 'k1', keys })
    key.fill(0)
    delete keys['k1']
    const frame = await subject.encode(raw, CLAIM)
    expect(Buffer.compare(await codec(FIRST).decode(frame, CLAIM), raw)).toBe(0)
  })
})

describe('options', () => {
  const key = KEYS.k1

  test.each([
    ['a short key', { current: 'k', keys: { k: key.subarray(1) } }],
    ['a long key', { current: 'k', keys: { k: Buffer.concat([key, key]) } }],
    ['a key as text', { current: 'k', keys: { k: 'x'.repeat(32) } }],
    ['a key as numbers', { current: 'k', keys: { k: [...key] } }],
    ['a short key that is not current', { current: 'k', keys: { k: key, old: key.subarray(1) } }],
    ['current without a key', { current: 'k2', keys: { k: key } }],
    ['current that every object has', { current: 'constructor', keys: { k: key } }],
    ['no current', { keys: { k: key } }],
    ['no keys', { current: 'k' }],
    ['empty keys', { current: 'k', keys: {} }],
    ['null as keys', { current: 'k', keys: null }],
    ['an empty id', { current: '', keys: { '': key } }],
    ['an id of 65', { current: 'k'.repeat(65), keys: { ['k'.repeat(65)]: key } }],
    ['an id beyond ASCII', { current: 'schlüssel', keys: { schlüssel: key } }],
    ['allowPlaintext as text', { current: 'k', keys: { k: key }, allowPlaintext: 'false' }],
    ['a key alone', 'k'],
    ['null', null],
  ])('refused: %s', (_name, encryption) => {
    const options = { maxBytes: 10, encryption } as unknown as { maxBytes: number }
    expect(() => new PayloadCodec(options)).toThrow(ConfigurationError)
  })

  test('an id of 64 is fine', async () => {
    const id = 'k'.repeat(64)
    const subject = codec({ current: id, keys: { [id]: key } })
    const frame = await subject.encode(Buffer.from('abc'), CLAIM)
    expect(Buffer.from(await subject.decode(frame, CLAIM)).toString()).toBe('abc')
  })
})
