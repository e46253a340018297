import { BASICS, type Script, scriptOf } from './script.ts'

/**
 * Appends events of generated ids, and puts payloads. A fraction of the write script, which is sent with its text in
 * every MULTI: this is what most transactions do.
 *
 * KEYS  of every script
 * ARGV  channel to announce on ('' for none), '1' to write even when memory is full
 *         number of events, then for each: id, type, body, headers, due at ('' for none), due in
 *         number of payloads, then for each: id, data, expires at ('' for none), expires in
 * Returns nothing: all of it was applied, or had been already.
 *
 * Everything that can refuse is asked before the first write, or is that write: what a script has written before it
 * fails, stays.
 */
export const APPEND: Script = scriptOf(`${BASICS}
local payloads = 4 + ARGV[3] * 6
local fresh = {}
for at = 4, payloads - 1, 6 do
  local key = root .. 'event:' .. ARGV[at]
  local known = redis.pcall('HEXISTS', key, 'state')
  if known == 0 then fresh[at] = key
  elseif known ~= 1 then return refusal(key, known) end
end
if next(fresh) then
  local _, key = next(fresh)
  needs('ZADD', root .. 'due', '0', '')
  needs('HSET', key, 'state', '')
end
if ARGV[payloads + 1] then needs('SET', root .. 'saga:' .. ARGV[payloads + 1], '', 'PXAT', '1') end
if ARGV[2] == '1' then needs('ZREM', root .. 'leased', '') end
if forbidden then return forbidden end
if ARGV[2] == '1' then go_on_when_full() end
local scores, created = {}, text(now)
for at in pairs(fresh) do scores[#scores + 1], scores[#scores + 2] = moment(ARGV[at + 4], ARGV[at + 5]), ARGV[at] end
in_chunks(scores, function(...) redis.call('ZADD', root .. 'due', ...) end)
for at, key in pairs(fresh) do
  redis.call('HSET', key, 'type', ARGV[at + 1], 'body', ARGV[at + 2], 'headers', ARGV[at + 3],
    'fingerprint', '', 'created', created, 'attempt', '0', 'uncounted', '0', 'state', 'waiting')
end
for at = payloads + 1, #ARGV, 4 do
  redis.call('SET', root .. 'saga:' .. ARGV[at], ARGV[at + 1], 'PXAT', moment(ARGV[at + 2], ARGV[at + 3]))
end
announce(ARGV[1])
`)
