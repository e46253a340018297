import { crc32 } from 'node:zlib'
import { ConfigurationError } from './errors.ts'
import type { DeadCursor } from './storage.ts'

/** A place in a list, as text that a user may keep and hand back. The checksum tells it from text of other origin. */
export function cursorText(cursor: DeadCursor): string {
  const json = Buffer.from(JSON.stringify(cursor))
  return `${json.toString('base64url')}.${crc32(json).toString(36)}`
}

/** @throws ConfigurationError unless the text is from `cursorText` */
export function parsedCursor(text: unknown): DeadCursor {
  const [body = '', checksum] = typeof text === 'string' && text.length < 2_000 ? text.split('.') : []
  const json = Buffer.from(body, 'base64url')
  if (checksum !== crc32(json).toString(36) || json.length === 0) {
    throw new ConfigurationError('after', text, 'it must be the `next` of a page before, unchanged')
  }
  return JSON.parse(json.toString()) as DeadCursor
}
