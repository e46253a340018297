import { ASSERT_TYPES, type Script, script } from './script.ts'

/**
 * Applies outcomes: each entirely or not at all.
 *
 * KEYS  of every script
 * ARGV  channel to announce on ('' for none), '1' to write even when memory is full, number of outcomes, then for each:
 *         state its event has to be in ('' when it settles none); then id, attempt, state it goes into ('deleted' for none),
 *         milliseconds from now, error ('' for the one it has), which attempts count no longer (none, one, all)
 *         number of events, then for each: id, type, body, headers, due at ('' for none), due in, fingerprint ('' for none),
 *         '1' when it is leased
 *         number of payloads, then for each: id, data, expires at ('' for none), expires in
 *         number of removed payloads, then their ids
 * Returns for each outcome: 'applied', 'lost', or 'duplicate' and the first one's fingerprint after a space
 *
 * Everything that can refuse an outcome is asked before the first write: what a script has written before it fails,
 * stays. Settlements go on when memory is full, so that what is under way ends.
 */
export const WRITE: Script = script(`
local channel, goes_on, position = ARGV[1], ARGV[2] == '1', 4
local function take(count)
  local first = position
  position = first + count
  return { unpack(ARGV, first, position - 1) }
end
-- Most lists are empty, and making tables is what takes the time.
local nothing = {}
local function take_list(size)
  local count = tonumber(ARGV[position])
  position = position + 1
  if count == 0 then return nothing end
  local list = {}
  for n = 1, count do list[n] = take(size) end
  return list
end
local function take_settlement()
  if ARGV[position] ~= '' then return take(7) end
  position = position + 1
end
local sets = { leased = leased, dead = dead, waiting = due, done = done }

${ASSERT_TYPES}
-- Something that can't be counted on; its event's own fault.
local spoilt
local function is_lost(settle)
  local event = event_fields(settle[2], 'state', 'attempt', 'uncounted')
  if event and settle[7] == 'one' then
    settle.uncounted = tonumber(event[3])
    if not (settle.uncounted and math.abs(settle.uncounted) < 2 ^ 53) then
      spoilt = redis.error_reply('ERR hash value is not an integer: uncounted of ' .. root .. 'event:' .. settle[2])
    end
  end
  return not event or event[1] ~= settle[1] or event[2] ~= settle[3]
end

-- Most of what is written completes: those are deleted together, at the end.
local completed, completed_keys = {}, {}
local results, outcomes = {}, {}
-- Of what is going to be done, an example of each.
local settled, appended, appended_leased, put, unput = {}, nil, nil, nil, nil
for n = 1, tonumber(ARGV[3]) do
  local settle = take_settlement()
  local result = settle and is_lost(settle) and 'lost' or 'applied'
  if spoilt then return spoilt end
  local given, events = take_list(8), nothing
  if given ~= nothing then events = {} end
  for _, event in ipairs(given) do
    local key = root .. 'event:' .. event[1]
    local known = redis.pcall('HGET', key, 'fingerprint')
    if type(known) == 'table' then return refusal(key, known) end
    if known and event[7] ~= '' and result ~= 'lost' then result = 'duplicate ' .. known end
    if not known then events[#events + 1] = event end
  end
  local payloads, removed = take_list(4), take_list(1)
  if result == 'applied' then
    for _, event in ipairs(events) do
      if event[8] == '1' then appended_leased = event[1] else appended = event[1] end
    end
    if payloads ~= nothing then put = payloads[1][1] end
    if removed ~= nothing then unput = removed[1][1] end
    if settle then
      goes_on = true
      settled[settle[1] .. settle[4]] = settle
      if settle[1] == 'leased' and settle[4] == 'deleted' then
        completed[#completed + 1], completed_keys[#completed_keys + 1] = settle[2], root .. 'event:' .. settle[2]
        settle = nil
      end
    end
    if settle or events ~= nothing or payloads ~= nothing or removed ~= nothing then
      outcomes[#outcomes + 1] = { settle or false, events, payloads, removed }
    end
  end
  results[n] = result
end

local function needs_event(id, command, ...) needs(command, root .. 'event:' .. id, ...) end
for _, settle in pairs(settled) do
  local from, id, _, to = unpack(settle)
  needs('ZREM', sets[from], id)
  if to == 'deleted' then needs_event(id, 'DEL')
  else
    needs_event(id, 'HSET', 'state', '')
    needs('ZADD', sets[to], '0', id)
  end
end
if appended or appended_leased then needs_event(appended or appended_leased, 'HSET', 'state', '') end
if appended then needs('ZADD', due, '0', appended) end
if appended_leased then needs('ZADD', leased, '0', appended_leased) end
if put then needs('SET', root .. 'saga:' .. put, '', 'PXAT', '1') end
if unput then needs('DEL', root .. 'saga:' .. unput) end
if goes_on then needs('ZREM', leased, '') end
if forbidden then return forbidden end

local function apply_settlement(settle)
  local from, id, attempt, to, ms, reason, pardon = unpack(settle)
  local key = root .. 'event:' .. id
  if to == 'deleted' then
    redis.call('DEL', key)
  else
    if pardon == 'one' then redis.call('HSET', key, 'uncounted', text(settle.uncounted + 1)) end
    if pardon == 'all' then redis.call('HSET', key, 'uncounted', attempt) end
    if reason ~= '' then redis.call('HSET', key, 'error', reason) end
    redis.call('HSET', key, 'state', to)
    redis.call('ZADD', sets[to], text(now + tonumber(ms)), id)
  end
  -- Last: whatever goes wrong, the event is still in one of the sets.
  redis.call('ZREM', sets[from], id)
end

if goes_on then go_on_when_full() end
for _, outcome in ipairs(outcomes) do
  local settle, events, payloads, removed = unpack(outcome)
  if settle then apply_settlement(settle) end
  for _, event in ipairs(events) do
    local is_leased = event[8] == '1'
    redis.call('ZADD', is_leased and leased or due, moment(event[5], event[6]), event[1])
    redis.call('HSET', root .. 'event:' .. event[1], 'type', event[2], 'body', event[3], 'headers', event[4],
      'fingerprint', event[7], 'created', text(now), 'uncounted', '0',
      'attempt', is_leased and '1' or '0', 'state', is_leased and 'leased' or 'waiting')
  end
  for _, payload in ipairs(payloads) do
    redis.call('SET', root .. 'saga:' .. payload[1], payload[2], 'PXAT', moment(payload[3], payload[4]))
  end
  for _, gone in ipairs(removed) do redis.call('DEL', root .. 'saga:' .. gone[1]) end
end
in_chunks(completed, function(...) redis.call('ZREM', leased, ...) end)
in_chunks(completed_keys, function(...) redis.call('DEL', ...) end)
announce(channel)
return results
`)
