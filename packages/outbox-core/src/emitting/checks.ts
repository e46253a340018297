import { LATEST_MS } from '../duration.ts'
import { InvalidEventError } from '../errors.ts'
import { type Duration, durationMs } from '../options.ts'
import type { Headers, When } from '../storage.ts'

// Headers with this prefix are the library's own.
export const RESERVED_HEADER_PREFIX = 'outbox-'

const HEADERS_LIMIT = 8 * 1024

/** @throws InvalidEventError */
export function checkedType(type: string): string {
  if (typeof type !== 'string' || !/^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$/.test(type)) {
    throw new InvalidEventError(
      `event type ${quoted(type)} is not valid: it starts with a letter, holds letters, digits and _ . : / -, and has at most 128 characters`,
    )
  }
  return type
}

export function checkedId(id: string): string {
  if (typeof id !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(id)) {
    throw new InvalidEventError(
      `event id ${quoted(id)} is not valid: it has 1 to 255 visible ASCII characters`,
    )
  }
  return id
}

export function checkedHeaders(headers: Headers): Headers {
  let bytes = 0
  for (const [name, value] of Object.entries(headers)) {
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name)) {
      throw new InvalidEventError(
        `header name ${quoted(name)} is not valid: it starts with a letter or digit, holds letters, digits and _ . -, and has at most 64 characters`,
      )
    }
    if (name.toLowerCase().startsWith(RESERVED_HEADER_PREFIX)) {
      throw new InvalidEventError(
        `header name ${quoted(name)} is reserved; choose one without the prefix "${RESERVED_HEADER_PREFIX}"`,
      )
    }
    if (typeof value !== 'string') throw new InvalidEventError(`header ${quoted(name)} is not a string`)
    bytes += name.length + Buffer.byteLength(value)
  }
  if (bytes > HEADERS_LIMIT) {
    throw new InvalidEventError(
      `the headers have ${bytes} bytes, the limit is ${HEADERS_LIMIT}; move data into the payload`,
    )
  }
  return { ...headers }
}

/** When an event is due, as a user says it. */
interface Moment {
  readonly deliverAt?: Date | undefined
  readonly delay?: Duration | undefined
  readonly key?: string | undefined
}

const LONGEST_KEY = 255

export function checkedKey(key: string): string {
  const fits = typeof key === 'string' && key.isWellFormed() && Buffer.byteLength(key) <= LONGEST_KEY
  if (fits && key !== '' && !/\p{Cc}/u.test(key)) return key
  throw new InvalidEventError(
    `event key ${quoted(key)} is not valid: it has 1 to ${LONGEST_KEY} bytes of text without control characters`,
  )
}

export function dueTime({ deliverAt, delay, key }: Moment): When {
  if (key !== undefined && (deliverAt !== undefined || delay !== undefined)) {
    throw new InvalidEventError(
      'an event with a key takes neither deliverAt nor delay: all that comes after it in its key would wait for that moment',
    )
  }
  if (deliverAt !== undefined && delay !== undefined) {
    throw new InvalidEventError('an event takes deliverAt or delay, not both')
  }
  if (delay !== undefined) return { inMs: durationMs('delay', delay, 0) }
  if (deliverAt === undefined) return { inMs: 0 }
  const at = deliverAt instanceof Date ? deliverAt.getTime() : Number.NaN
  if (!(at <= LATEST_MS)) throw new InvalidEventError('deliverAt is not a valid Date before the year 10000')
  return { at: Math.max(0, at) }
}

function quoted(value: unknown): string {
  const text = typeof value === 'string' ? value : String(value)
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)
}
