import { ASSERT_TYPES, BASICS, type Script, scriptOf } from './script.ts'

/**
 * Appends events of generated ids, and puts payloads. A fraction of the write script, which is sent with its text in
 * every MULTI: this is what most transactions do.
 *
 * KEYS  root
 * ARGV  channel to announce on ('' for none), '1' to write even when memory is full
 *         number of events, then for each: id, type, body, headers, due at ('' for none), due in
 *         number of payloads, then for each: id, data, expires at ('' for none), expires in
 * Returns nothing: all of it was applied, or had been already.
 *
 * Everything that can refuse is asked before the first write: what a script has written before it fails, stays.
 */
export const APPEND: Script = scriptOf(`${BASICS}${ASSERT_TYPES}
local payloads = 4 + ARGV[3] * 6
local fresh = {}
for at = 4, payloads - 1, 6 do
  local key = root .. 'event:' .. ARGV[at]
  local known = redis.pcall('HEXISTS', key, 'state')
  if type(known) == 'table' then return redis.error_reply('WRONGTYPE ' .. key .. ' holds something else') end
  if known == 0 then fresh[#fresh + 1] = at end
end
if ARGV[2] == '1' then go_on_when_full() end
for _, at in ipairs(fresh) do
  redis.call('HSET', root .. 'event:' .. ARGV[at], 'type', ARGV[at + 1], 'body', ARGV[at + 2],
    'headers', ARGV[at + 3], 'fingerprint', '', 'created', text(now), 'attempt', '0', 'uncounted', '0',
    'state', 'waiting')
  redis.call('ZADD', due, moment(ARGV[at + 4], ARGV[at + 5]), ARGV[at])
end
for at = payloads + 1, #ARGV, 4 do
  redis.call('SET', root .. 'saga:' .. ARGV[at], ARGV[at + 1], 'PXAT', moment(ARGV[at + 2], ARGV[at + 3]))
end
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], '') end
`)
