import { createHash } from 'node:crypto'

/** A Lua script, as it is sent. */
export interface Script {
  readonly text: string
  readonly sha: string
}

/** Milliseconds by the server's clock, and numbers as text without an exponent. */
const PRELUDE = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
`

export function script(body: string): Script {
  const text = `${PRELUDE}${body}`
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}
