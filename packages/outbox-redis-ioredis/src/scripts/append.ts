import { ADDRESSES, PLACES } from './places.ts'
import { BASICS, type Script, scriptOf } from './script.ts'

/**
 * Appends events of generated ids, and puts payloads. A fraction of the write script, which is sent with its text in
 * every MULTI: this is what most transactions do.
 *
 * KEYS  of every script
 * ARGV  channel to announce on ('' for none), '1' to write even when memory is full
 *         number of events, then for each: id, type, body, headers, due at ('' for none), due in, address ('' for the type),
 *         key ('' for none)
 *         number of payloads, then for each: id, data, expires at ('' for none), expires in
 * Returns nothing: all of it was applied, or had been already.
 *
 * Everything that can refuse is asked before the first write, or is that write: what a script has written before it
 * fails, stays.
 */
export const APPEND: Script = appending(false)

/** The same where some of the events have a key. */
export const APPEND_IN_PLACE: Script = appending(true)

function appending(hasKeys: boolean): Script {
  const forKeys = (part: string): string => (hasKeys ? part : '')
  return scriptOf(`${BASICS}${ADDRESSES}${forKeys(PLACES)}
local payloads = 4 + ARGV[3] * 8
local fresh = {}
for at = 4, payloads - 1, 8 do
  local key = root .. 'event:' .. ARGV[at]
  local known = redis.pcall('HEXISTS', key, 'state')
  if known == 0 then
    fresh[#fresh + 1] = at
    expects(address_of(ARGV[at + 1], ARGV[at + 6]))
${forKeys(`
    local refused = ARGV[at + 7] ~= '' and expects_key(ARGV[at + 7])
    if refused then return refused end
`)}  elseif known ~= 1 then return refusal(key, known) end
end
if fresh[1] then needs('HSET', root .. 'event:' .. ARGV[fresh[1]], 'state', '') end
if ARGV[payloads + 1] then needs('SET', root .. 'saga:' .. ARGV[payloads + 1], '', 'PXAT', '1') end
if ARGV[2] == '1' then needs('ZREM', addresses, '') end
if forbidden then return forbidden end
if ARGV[2] == '1' then go_on_when_full() end
learn_addresses()
local entries, states, created = {}, {}, text(now)
for _, at in ipairs(fresh) do
  local set = due_at(address_of(ARGV[at + 1], ARGV[at + 6]))
${forKeys(`
  if is_behind(ARGV[at + 7], ARGV[at]) then states[at], set = 'blocked', blocked end
`)}
  enter(entries, set, moment(ARGV[at + 4], ARGV[at + 5]), ARGV[at])
end
add_all(entries)
for _, at in ipairs(fresh) do
  redis.call('HSET', root .. 'event:' .. ARGV[at], 'type', ARGV[at + 1], 'body', ARGV[at + 2], 'headers', ARGV[at + 3],
    'fingerprint', '', 'created', created, 'attempt', '0', 'uncounted', '0', 'state', states[at] or 'waiting',
    unpack(noted(ARGV[at + 6], ARGV[at + 7])))
end
for at = payloads + 1, #ARGV, 4 do
  redis.call('SET', root .. 'saga:' .. ARGV[at], ARGV[at + 1], 'PXAT', moment(ARGV[at + 2], ARGV[at + 3]))
end
announce(ARGV[1])
`)
}
