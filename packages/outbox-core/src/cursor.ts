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
  const [body = '', checksum, ...more] =
    typeof text === 'string' && text.length < 2_000 ? text.split('.') : []
  const json = Buffer.from(body, 'base64url')
  const cursor =
    more.length === 0 && checksum === crc32(json).toString(36) ? parsed(json.toString()) : undefined
  if (isCursor(cursor)) return cursor
  throw new ConfigurationError('after', text, 'it must be the `next` of a page before, unchanged')
}

// Anyone can make a checksum: nothing of another shape may reach a database's query.
function isCursor(value: unknown): value is DeadCursor {
  return (
    Array.isArray(value) && value.length === 2 && Number.isFinite(value[0]) && typeof value[1] === 'string'
  )
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}
