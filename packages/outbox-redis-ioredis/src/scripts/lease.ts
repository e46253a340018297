import { type Script, script } from './script.ts'

/**
 * Takes due events, those whose lease has run out first, then oldest first.
 *
 * KEYS  due, leased
 * ARGV  prefix, limit, milliseconds of the lease
 * Returns for each event: id, type, body, headers, created, attempt, uncounted
 */
export const LEASE: Script = script(`
local due, leased, prefix = KEYS[1], KEYS[2], ARGV[1]
local limit, ends = tonumber(ARGV[2]), text(now + tonumber(ARGV[3]))
local ids = redis.call('ZRANGEBYSCORE', leased, '-inf', text(now), 'LIMIT', 0, limit)
if #ids < limit then
  local waiting = redis.call('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', 0, limit - #ids)
  if #waiting > 0 then redis.call('ZREM', due, unpack(waiting)) end
  for _, id in ipairs(waiting) do ids[#ids + 1] = id end
end
local events, scores = {}, {}
for _, id in ipairs(ids) do
  local key = prefix .. 'event:' .. id
  local event = redis.call('HMGET', key, 'type', 'body', 'headers', 'created', 'attempt', 'uncounted')
  if event[1] then
    local attempt = text(event[5] + 1)
    redis.call('HSET', key, 'attempt', attempt, 'state', 'leased')
    scores[#scores + 1], scores[#scores + 2] = ends, id
    local base = #events
    events[base + 1], events[base + 2], events[base + 3], events[base + 4] = id, event[1], event[2], event[3]
    events[base + 5], events[base + 6], events[base + 7] = event[4], attempt, event[6]
  else
    redis.call('ZREM', leased, id)
  end
end
if #scores > 0 then redis.call('ZADD', leased, unpack(scores)) end
return events
`)
