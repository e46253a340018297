import { type Script, script } from './script.ts'

/**
 * Takes due events, oldest first. Sent again by the driver, it takes no others: it says again what it has taken.
 *
 * KEYS  of every script
 * ARGV  limit, milliseconds of the lease, who leases, the number of this call
 * Returns now, then for each event: id, type, body, headers, created, attempt, uncounted
 */
export const LEASE: Script = script(`
local limit, moment, ends = tonumber(ARGV[1]), text(now), text(now + tonumber(ARGV[2]))
local events, scores, gone = { moment }, {}, {}
local function hand_out(id, attempt, event)
  local base = #events
  events[base + 1], events[base + 2], events[base + 3], events[base + 4] = id, event[2], event[3], event[4]
  events[base + 5], events[base + 6], events[base + 7] = event[5], attempt, event[6]
end

-- What this worker has taken last: the number of its call, then id and attempt of each.
local note = root .. 'lease:' .. ARGV[3]
local last = redis.pcall('GET', note)
local is_note = type(last) == 'string'
if is_note then is_note, last = pcall(cjson.decode, last) end
if not is_note or type(last) ~= 'table' or not tonumber(last[1]) then last = { '0' } end
if tonumber(last[1]) == tonumber(ARGV[4]) then
  for at = 2, #last, 2 do
    local event = event_fields(last[at], 'attempt', 'type', 'body', 'headers', 'created', 'uncounted', 'state')
    if event and event[7] == 'leased' and event[1] == last[at + 1] then hand_out(last[at], event[1], event) end
  end
end
if tonumber(last[1]) >= tonumber(ARGV[4]) then return events end

-- Those whose lease has run out are as old as that moment.
local function oldest_of(set) return redis.call('ZRANGEBYSCORE', set, '-inf', moment, 'WITHSCORES', 'LIMIT', 0, limit) end
local expired, unleased, ids, waiting = oldest_of(leased), oldest_of(due), {}, {}
local from_expired, from_unleased = 1, 1
while #ids < limit do
  local one, other = tonumber(expired[from_expired + 1]), tonumber(unleased[from_unleased + 1])
  if not one and not other then break end
  if one and (not other or one <= other) then
    ids[#ids + 1], from_expired = expired[from_expired], from_expired + 2
  else
    ids[#ids + 1], from_unleased = unleased[from_unleased], from_unleased + 2
    waiting[#waiting + 1] = ids[#ids]
  end
end
if #ids == 0 then return events end

local taken = { ARGV[4] }
for _, id in ipairs(ids) do
  local event = event_fields(id, 'attempt', 'type', 'body', 'headers', 'created', 'uncounted')
  if event then
    local attempt = text((tonumber(event[1]) or 0) + 1)
    scores[#scores + 1], scores[#scores + 2] = ends, id
    taken[#taken + 1], taken[#taken + 2] = id, attempt
    hand_out(id, attempt, event)
  else
    gone[#gone + 1] = id
  end
end
needs('ZREM', leased, '')
needs('ZREM', due, '')
needs('ZADD', leased, '0', '')
needs('HSET', root .. 'event:' .. ids[1], 'state', '')
needs('SET', note, '', 'PX', '1')
if forbidden then return forbidden end
go_on_when_full()
redis.call('SET', note, cjson.encode(taken), 'PX', text(math.max(1, tonumber(ARGV[2]))))
for at = 2, #taken, 2 do
  redis.call('HSET', root .. 'event:' .. taken[at], 'attempt', taken[at + 1], 'state', 'leased')
end
in_chunks(scores, function(...) redis.call('ZADD', leased, ...) end)
-- Not before: whatever goes wrong, an event is still in one of the sets.
in_chunks(waiting, function(...) redis.call('ZREM', due, ...) end)
in_chunks(gone, function(...) redis.call('ZREM', leased, ...) end)
return events
`)
