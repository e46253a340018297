import { BEHIND } from './behind.ts'
import { type Script, script } from './script.ts'

/**
 * Takes due events of some addresses, oldest first. Sent again by the driver, it takes no others: it says again what it has
 * taken.
 *
 * KEYS  of every script
 * ARGV  limit, milliseconds of the lease, who leases, the number of this call, how many to tell of behind each, then
 *         each address and the most to take of it
 * Returns now, then for each event: id, type, body, headers, created, attempt, uncounted, address ('' for the type), key ('' for
 *   none); after each those behind it in its key, with a + before their attempt
 */
export const LEASE: Script = script(`
local limit, moment, ends = tonumber(ARGV[1]), text(now), text(now + tonumber(ARGV[2]))
local most_behind, first_share = tonumber(ARGV[5]), 6
local events = { moment }
local nothing = {}
local function hand_out(id, attempt, event, address, key)
  local base = #events
  events[base + 1], events[base + 2], events[base + 3], events[base + 4] = id, event[2], event[3], event[4]
  events[base + 5], events[base + 6], events[base + 7] = event[5], attempt, event[6]
  events[base + 8], events[base + 9] = address == event[2] and '' or address, key or ''
end
${BEHIND}
-- What this worker has taken last: the number of its call, then id and attempt of each.
local note = root .. 'lease:' .. ARGV[3]
local last = redis.pcall('GET', note)
local is_note = type(last) == 'string'
if is_note then is_note, last = pcall(cjson.decode, last) end
if not is_note or type(last) ~= 'table' or not tonumber(last[1]) then last = { '0' } end
if tonumber(last[1]) == tonumber(ARGV[4]) then
  for at = 2, #last, 2 do
    local event = event_fields(last[at], 'attempt', 'type', 'body', 'headers', 'created', 'uncounted', 'key', 'address', 'state')
    if event and event[9] == 'leased' and event[1] == last[at + 1] then
      hand_out(last[at], event[1], event, address_of(event[2], event[8]), event[7])
      tell_behind(event[7])
    end
  end
end
if tonumber(last[1]) >= tonumber(ARGV[4]) then return events end

-- Those whose lease has run out are as old as that moment.
local queues, from = {}, {}
local function look_at(set, share, is_due)
  local oldest = redis.call('ZRANGEBYSCORE', set, '-inf', moment, 'WITHSCORES', 'LIMIT', 0, share.left)
  if oldest[1] then
    queues[#queues + 1] = {
      id = oldest[1], at = tonumber(oldest[2]), place = 1, oldest = oldest, set = set, share = share, moved = is_due and {}
    }
  end
end
for at = first_share, #ARGV, 2 do
  local share = { address = ARGV[at], left = math.min(limit, tonumber(ARGV[at + 1])), scores = {} }
  look_at(leased_at(share.address), share, false)
  look_at(due_at(share.address), share, true)
end
if not queues[1] then return events end
local function precedes(one, other)
  return one.at < other.at or (one.at == other.at and one.id < other.id)
end
-- Sorted, they are a heap.
if queues[2] then table.sort(queues, precedes) end
local function sift()
  local parent, queue = 1, queues[1]
  while true do
    local child = 2 * parent
    if child > #queues then break end
    if child < #queues and precedes(queues[child + 1], queues[child]) then child = child + 1 end
    if precedes(queue, queues[child]) then break end
    queues[parent] = queues[child]
    parent = child
  end
  queues[parent] = queue
end

local taken, gone, left = { ARGV[4] }, {}, {}
local function take(id, queue)
  local event = event_fields(id, 'attempt', 'type', 'body', 'headers', 'created', 'uncounted', 'key')
  if not event then
    enter(gone, queue.set, id)
    left[queue.share.address] = true
    return
  end
  local attempt, scores = text((tonumber(event[1]) or 0) + 1), queue.share.scores
  scores[#scores + 1], scores[#scores + 2] = ends, id
  taken[#taken + 1], taken[#taken + 2] = id, attempt
  if queue.moved then queue.moved[#queue.moved + 1] = id end
  hand_out(id, attempt, event, queue.share.address, event[7])
  tell_behind(event[7])
end
local count = 0
while count < limit and queues[1] do
  local queue = queues[1]
  if queue.share.left > 0 then
    if queue.place == 1 then from[#from + 1] = queue end
    take(queue.id, queue)
    count, queue.share.left, queue.place = count + 1, queue.share.left - 1, queue.place + 2
    queue.id, queue.at = queue.oldest[queue.place], tonumber(queue.oldest[queue.place + 1])
  else
    queue.id = nil
  end
  if not queue.id then
    queues[1] = queues[#queues]
    queues[#queues] = nil
  end
  if queues[2] then sift() end
end

for _, queue in ipairs(from) do
  needs('ZADD', leased_at(queue.share.address), '0', '')
  needs('ZREM', queue.set, '')
end
needs('ZREM', addresses, '')
if taken[2] then needs('HSET', root .. 'event:' .. taken[2], 'state', '') end
needs('SET', note, '', 'PX', '1')
if forbidden then return forbidden end
go_on_when_full()
redis.call('SET', note, cjson.encode(taken), 'PX', text(math.max(1, tonumber(ARGV[2]))))
for at = 2, #taken, 2 do
  redis.call('HSET', root .. 'event:' .. taken[at], 'attempt', taken[at + 1], 'state', 'leased')
end
for _, queue in ipairs(from) do
  in_chunks(queue.share.scores, function(...) redis.call('ZADD', leased_at(queue.share.address), ...) end)
  queue.share.scores = nothing
  -- Not before: whatever goes wrong, an event is still in one of the sets.
  if queue.moved then in_chunks(queue.moved, function(...) redis.call('ZREM', queue.set, ...) end) end
end
remove_all(gone)
forget_empty(left)
return events
`)
