import { OutboxError } from 'outbox-core'
import { expect, test } from 'vitest'
import { PayloadCodec } from '../../packages/outbox-core/src/claims/payload-frame.ts'
import { bitFlips, failure, resizes, webhookPayloads } from '../../packages/outbox-core/test/forged-frame.ts'

const LONG = process.env['FAULTS'] === 'long'
const CLAIM = 'claim-1'

const key = (byte: number): Uint8Array => new Uint8Array(32).fill(byte)
const maxBytes = 1024 * 1024
const READERS = {
  plain: new PayloadCodec({ maxBytes }),
  encrypted: new PayloadCodec({ maxBytes, encryption: { current: 'k1', keys: { k1: key(1) } } }),
}
const STRANGER = new PayloadCodec({ maxBytes, encryption: { current: 'k1', keys: { k1: key(2) } } })

for (const [name, codec] of Object.entries(READERS)) {
  test(`damage to stored payloads, ${name}`, { timeout: LONG ? 14_400_000 : 1_200_000 }, async ({ task }) => {
    const payloads = webhookPayloads()
    const samples = LONG ? 100 : 10
    let damaged = 0
    for (let sample = 0; sample < samples; sample++) {
      const raw = payloads[Math.floor((sample * payloads.length) / samples)] ?? new Uint8Array()
      const frame = await codec.encode(raw, CLAIM)
      expect(Buffer.compare(await codec.decode(frame, CLAIM), raw)).toBe(0)
      for (const change of [bitFlips, resizes]) {
        for (const bytes of change(frame)) {
          damaged++
          const error = await failure(() => codec.decode(bytes, CLAIM))
          if (!(error instanceof OutboxError)) expect.fail(`sample ${sample}, damage ${damaged}: ${error}`)
        }
      }
      const strange = await failure(() => STRANGER.decode(frame, CLAIM))
      expect(strange).toMatchObject({ code: 'OUTBOX_PAYLOAD_AUTHENTICATION' })
    }
    task.meta.fault = {
      scenario: 'every bit and every length of a payload',
      adapter: name,
      seed: 0,
      counts: { samples, 'damaged payloads refused': damaged },
    }
  })
}
