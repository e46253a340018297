import { createHash } from 'node:crypto'

/** A Lua script, as it is sent. */
export interface Script {
  readonly text: string
  readonly sha: string
}

/**
 * The keys of every script. The first is the root of all others, so that a cluster finds the node of them all. Neither ever
 * exists: of two, a node whose slot is moving says TRYAGAIN, of one it would let scripts go ahead where only some of what
 * they need has arrived.
 */
export function keysOfScripts(root: string): readonly [string, string] {
  return [root, `${root}-`]
}

/** Of an event whose key is somebody else's: it can't be written, whenever it is tried. */
export const TAKEN = 'holds something else'

/** What every script needs; part of what is sent with each MULTI. */
export const BASICS: string = `
local root, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Numbers as text without an exponent.
local function text(number) return string.format('%.0f', number) end
-- Redis takes no expiry before 1.
local function moment(at, delay)
  if at ~= '' then return at end
  return text(math.max(1, now + delay))
end
local function is_taken(reply) return reply.err:find('WRONGTYPE', 1, true) ~= nil end
-- Why an event can't be written, from what its key was answered.
local function refusal(key, reply)
  return is_taken(reply) and redis.error_reply('WRONGTYPE ' .. key .. ' ${TAKEN}') or reply
end
-- What a script has written before a command is forbidden stays. So all are asked for before the first (Redis 7).
local forbidden
local function needs(command, key, ...)
  if not redis.acl_check_cmd or redis.acl_check_cmd(command, key, ...) then return end
  forbidden = forbidden or redis.error_reply('NOPERM this user may not run ' .. command .. ' on ' .. key)
end
-- Everything is written by then: that a user may not publish must not make it look refused.
local function announce(channel)
  if channel ~= '' then redis.pcall('PUBLISH', channel, '') end
end
-- Memory that is full refuses a script's first write, unless that is one which frees some.
local function go_on_when_full() redis.call('ZREM', root .. 'leased', '') end
-- Lua takes some 8,000 arguments in one call.
local function in_chunks(values, call)
  for from = 1, #values, 4000 do call(unpack(values, from, math.min(from + 3999, #values))) end
end
`

/** For scripts that write to several of the sets: before they do. */
export const ASSERT_TYPES = `
for _, key in ipairs({ due, leased, done, dead }) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' holds a ' .. kind) end
end
`

/** What several scripts do. */
const SHARED = `
local due, leased, done, dead = root .. 'due', root .. 'leased', root .. 'done', root .. 'dead'
-- Fields of an event; nil when there is none, or something else is under its key. The first field is one every event has.
local function event_fields(id, ...)
  local key = root .. 'event:' .. id
  local fields = redis.pcall('HMGET', key, ...)
  if not fields.err then return fields[1] and fields end
  -- One that only can't be read is not gone: this fails once more, and with it the script.
  if not is_taken(fields) then redis.call('HMGET', key, ...) end
end
`

/** A script that can use the basics and what is shared. */
export function script(body: string): Script {
  return scriptOf(BASICS + SHARED + body)
}

export function scriptOf(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}
