import { createRequire } from 'node:module'

interface Definition {
  readonly examples: readonly object[]
}

/** Real payloads: what GitHub sends to webhooks, 0.9 to 27 KB of JSON each. */
export const webhooks: readonly object[] = (
  createRequire(import.meta.url)('@octokit/webhooks-examples') as Definition[]
).flatMap(({ examples }) => examples)

const text = JSON.stringify(webhooks)

/** So many bytes of real JSON text, not repeating itself below 3 MB. */
export function realBytes(size: number): Uint8Array {
  return Buffer.from(text.slice(0, size))
}

const bySize = webhooks
  .map((payload) => ({ payload, bytes: JSON.stringify(payload).length }))
  .toSorted((a, b) => a.bytes - b.bytes)

/** Real payloads of at least so many bytes of JSON together: the largest as often as it takes, then the smallest that will do. */
export function realObjects(size: number): readonly object[] {
  const chosen: object[] = []
  for (let left = size; left > 0; ) {
    const next = bySize.find(({ bytes }) => bytes >= left) ?? bySize.at(-1)
    if (!next) throw new Error('@octokit/webhooks-examples has no payloads')
    chosen.push(next.payload)
    left -= next.bytes
  }
  return chosen
}
