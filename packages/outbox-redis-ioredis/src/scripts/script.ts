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
local addresses, blocked = root .. 'addresses', root .. 'blocked'
-- What waits at an address: by when it is visible.
local function due_at(address) return root .. 'due:' .. address end
-- Most events go to whoever can handle their type, and have nothing noted.
local function address_of(kind, address) return address and address ~= '' and address or kind end
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
local function go_on_when_full() redis.call('ZREM', addresses, '') end
-- Lua takes some 8,000 arguments in one call.
local function in_chunks(values, call)
  for from = 1, #values, 4000 do call(unpack(values, from, math.min(from + 3999, #values))) end
end
-- Collects what goes into each of several sorted sets, or out of it.
local function enter(entries, set, score, id)
  local of_set = entries[set]
  if not of_set then
    of_set = {}
    entries[set] = of_set
  end
  of_set[#of_set + 1] = score
  of_set[#of_set + 1] = id
end
local function add_all(entries)
  for set, scores in pairs(entries) do in_chunks(scores, function(...) redis.call('ZADD', set, ...) end) end
end
`

/** What several scripts do. */
const SHARED = `
local done, dead = root .. 'done', root .. 'dead'
-- What is leased from an address.
local function leased_at(address) return root .. 'leased:' .. address end
-- Fields of an event; nil when there is none, or something else is under its key. The first field is one every event has.
local function event_fields(id, ...)
  local key = root .. 'event:' .. id
  local fields = redis.pcall('HMGET', key, ...)
  if not fields.err then return fields[1] and fields end
  -- One that only can't be read is not gone: this fails once more, and with it the script.
  if not is_taken(fields) then redis.call('HMGET', key, ...) end
end
local function remove_all(entries)
  for set, ids in pairs(entries) do in_chunks(ids, function(...) redis.call('ZREM', set, ...) end) end
end
-- Addresses are known as long as they have open events. After everything else, and whatever it is answered: an address too
-- many does no harm.
local function forget_empty(left)
  for address in pairs(left) do
    if redis.pcall('ZCARD', due_at(address)) == 0 and redis.pcall('ZCARD', leased_at(address)) == 0 then
      redis.pcall('ZREM', addresses, address)
    end
  end
end
`

/** A script that can use the basics and what is shared. */
export function script(body: string): Script {
  return scriptOf(BASICS + SHARED + body)
}

export function scriptOf(source: string): Script {
  // What only people read is not sent, and hashed, with every MULTI.
  const text = source.replace(/^\s*(?:--.*\n\s*)*/gm, '')
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}
