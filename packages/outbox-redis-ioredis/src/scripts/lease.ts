import { type Script, script } from './script.ts'

/**
 * Takes due events, those whose lease has run out first, then oldest first.
 *
 * KEYS  root
 * ARGV  limit, milliseconds of the lease
 * Returns now, then for each event: id, type, body, headers, created, attempt, uncounted
 */
export const LEASE: Script = script(`
local limit, moment, ends = tonumber(ARGV[1]), text(now), text(now + tonumber(ARGV[2]))
local ids = redis.call('ZRANGEBYSCORE', leased, '-inf', moment, 'LIMIT', 0, limit)
local waiting = {}
if #ids < limit then
  waiting = redis.call('ZRANGEBYSCORE', due, '-inf', moment, 'LIMIT', 0, limit - #ids)
  for _, id in ipairs(waiting) do ids[#ids + 1] = id end
end
if #ids == 0 then return { moment } end
go_on_when_full()
local events, scores, gone = { moment }, {}, {}
for _, id in ipairs(ids) do
  local event = event_fields(id, 'attempt', 'type', 'body', 'headers', 'created', 'uncounted')
  if event then
    local attempt = text((tonumber(event[1]) or 0) + 1)
    redis.call('HSET', root .. 'event:' .. id, 'attempt', attempt, 'state', 'leased')
    scores[#scores + 1], scores[#scores + 2] = ends, id
    local base = #events
    events[base + 1], events[base + 2], events[base + 3], events[base + 4] = id, event[2], event[3], event[4]
    events[base + 5], events[base + 6], events[base + 7] = event[5], attempt, event[6]
  else
    gone[#gone + 1] = id
  end
end
in_chunks(scores, function(...) redis.call('ZADD', leased, ...) end)
-- Not before: whatever goes wrong, an event is still in one of the sets.
in_chunks(waiting, function(...) redis.call('ZREM', due, ...) end)
in_chunks(gone, function(...) redis.call('ZREM', leased, ...) end)
return events
`)
