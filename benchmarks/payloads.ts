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

/** Real payloads that make up about so many bytes of JSON. */
export function realObjects(size: number): readonly object[] {
  const chosen: object[] = []
  for (let bytes = 0, next = 0; bytes < size; next++) {
    const payload = webhooks[next % webhooks.length] ?? {}
    chosen.push(payload)
    bytes += JSON.stringify(payload).length
  }
  return chosen
}
