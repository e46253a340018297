import { PayloadCodec } from '../../packages/outbox-core/src/claims/payload-frame.ts'
import { assertEqual } from '../deliveries.ts'
import { type Metrics, timed, type Workload } from '../measure.ts'
import { realBytes, webhooks } from '../payloads.ts'

const CODECS = ['zstd', 'deflate', 'none'] as const
const LARGEST = 16 * 1024 * 1024

/** What the payload codecs cost and save, on real payloads. */
export function codecs(): readonly Workload[] {
  const each = webhooks.map((payload) => Buffer.from(JSON.stringify(payload)))
  return [
    codecWorkload(`${webhooks.length} webhook payloads, one by one`, each),
    codecWorkload('530 KB of them at once', Array<Uint8Array>(20).fill(realBytes(530_000))),
  ]
}

function codecWorkload(name: string, payloads: readonly Uint8Array[]): Workload {
  return {
    name,
    database: 'codec',
    trials: CODECS.map((compression) => ({
      arm: compression,
      role: 'other',
      run: () => measured(new PayloadCodec({ compression, maxBytes: LARGEST }), payloads),
    })),
  }
}

async function measured(codec: PayloadCodec, payloads: readonly Uint8Array[]): Promise<Metrics> {
  const frames: Uint8Array[] = []
  const encodeMs = await timed(async () => {
    for (const payload of payloads) frames.push(await codec.encode(payload, 'claim'))
  })
  const decoded: Uint8Array[] = []
  const decodeMs = await timed(async () => {
    for (const frame of frames) decoded.push(await codec.decode(frame, 'claim'))
  })
  const differing = decoded.filter((bytes, index) => Buffer.compare(bytes, payloads[index] ?? bytes) !== 0)
  assertEqual('payloads that differ', differing.length, 0)
  const microseconds = (ms: number): number => (ms * 1000) / payloads.length
  return {
    'encode, µs': microseconds(encodeMs),
    'decode, µs': microseconds(decodeMs),
    ratio: total(payloads) / total(frames),
  }
}

function total(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, { byteLength }) => sum + byteLength, 0)
}
