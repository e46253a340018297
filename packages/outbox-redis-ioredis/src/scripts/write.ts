import { ADDRESSES, PLACES } from './places.ts'
import { type Script, script } from './script.ts'
import { YIELDS } from './yields.ts'

/**
 * Applies outcomes: each entirely or not at all; of all of them what is settled before what is appended.
 *
 * KEYS  of every script
 * ARGV  channel to announce on ('' for none), '1' to write even when memory is full, number of outcomes, then for each:
 *         state its event has to be in ('' when it settles none); then id, attempt, state it goes into ('deleted' for none),
 *         milliseconds from now, error ('' for the one it has), which attempts count no longer (none, one, all), '1' when it
 *         gives up its place in its key, 'run' when others do so with it; then the one behind that is leased ('' for none), for
 *         how many milliseconds, how many are completed with it, and their ids
 *         number of events, then for each: id, type, body, headers, due at ('' for none), due in, address ('' for the type),
 *         key ('' for none), fingerprint ('' for none), '1' when it is leased, '1' when it takes the place of the settled one
 *         number of payloads, then for each: id, data, expires at ('' for none), expires in
 *         number of removed payloads, then their ids
 * Returns for each outcome: 'applied', 'lost', or 'duplicate' and the first one's fingerprint after a space
 *
 * Everything that can refuse an outcome is asked before the first write: what a script has written before it fails,
 * stays. Settlements go on when memory is full, so that what is under way ends.
 */
export const WRITE: Script = script(`
local channel, goes_on, position = ARGV[1], ARGV[2] == '1', 4
${ADDRESSES}${PLACES}
local function take(count)
  local first = position
  position = first + count
  return { unpack(ARGV, first, position - 1) }
end
-- Most lists are empty, and making tables is what takes the time.
local function take_list(size)
  local count = tonumber(ARGV[position])
  position = position + 1
  if count == 0 then return nothing end
  local list = {}
  for n = 1, count do list[n] = take(size) end
  return list
end
local function take_settlement()
  if ARGV[position] == '' then
    position = position + 1
    return
  end
  local settle = take(8)
  if settle[8] == 'run' then
    settle.taken, settle.lease_ms = unpack(take(2))
    settle.also = take_list(1)
  end
  return settle
end
local sets = { dead = dead, done = done }

local function put_event(event, is_blocked)
  local id, state = event[1], is_blocked and 'blocked' or event[10] == '1' and 'leased' or 'waiting'
  local address = address_of(event[2], event[7])
  local set = is_blocked and blocked or state == 'leased' and leased_at(address) or due_at(address)
  redis.call('ZADD', set, moment(event[5], event[6]), id)
  redis.call('HSET', root .. 'event:' .. id, 'type', event[2], 'body', event[3], 'headers', event[4],
    'fingerprint', event[9], 'created', text(now), 'uncounted', '0', 'attempt', state == 'leased' and '1' or '0',
    'state', state, unpack(noted(event[7], event[8])))
end
local left = {}
local function leave(address)
  if left[address] then return end
  left[address] = true
  needs('ZREM', leased_at(address), '')
  redis.call('ZCARD', leased_at(address))
end

${YIELDS}
-- Something that can't be counted on; its event's own fault.
local spoilt
local function is_lost(settle)
  local event = event_fields(settle[2], 'state', 'attempt', 'type', 'address', 'key')
  if event and settle[7] == 'one' then
    settle.uncounted = tonumber(event_fields(settle[2], 'state', 'uncounted')[2])
    if not (settle.uncounted and math.abs(settle.uncounted) < 2 ^ 53) then
      spoilt = redis.error_reply('ERR hash value is not an integer: uncounted of ' .. root .. 'event:' .. settle[2])
    end
  end
  if not event or event[1] ~= settle[1] or event[2] ~= settle[3] then return true end
  settle.address = address_of(event[3], event[4])
  if settle[8] ~= '0' and event[5] and event[5] ~= '' then spoilt = spoilt or find_place(settle, event[5]) end
end

-- Of what is going to be done, an example of each.
local settled, appended, put, unput = {}, nil, nil, nil
local function expects_event(event)
  local address = address_of(event[2], event[7])
  appended = event[1]
  expects(address)
  if event[10] == '1' then
    leave(address)
    needs('ZADD', leased_at(address), '0', '')
  end
end

-- Most of what is written completes: those are deleted together, at the end.
local completed_keys, completed_at = {}, {}
local results, outcomes = {}, {}
for n = 1, tonumber(ARGV[3]) do
  local settle = take_settlement()
  local result = settle and is_lost(settle) and 'lost' or 'applied'
  if spoilt then return spoilt end
  local given, events, in_place = take_list(11), nothing, nothing
  if given ~= nothing then events, in_place = {}, {} end
  for _, event in ipairs(given) do
    local key = root .. 'event:' .. event[1]
    local known = redis.pcall('HGET', key, 'fingerprint')
    if type(known) == 'table' then return refusal(key, known) end
    if known and event[9] ~= '' and result ~= 'lost' then result = 'duplicate ' .. known end
    if not known then
      local to = event[11] == '1' and settle and settle.place and settle.key == event[8] and in_place or events
      to[#to + 1] = event
    end
  end
  local payloads, removed = take_list(4), take_list(1)
  if result == 'applied' then
    for _, event in ipairs(events) do
      local refused = expects_event(event) or (event[8] ~= '' and expects_key(event[8]))
      if refused then return refused end
    end
    for _, event in ipairs(in_place) do expects_event(event) end
    if payloads ~= nothing then put = payloads[1][1] end
    if removed ~= nothing then unput = removed[1][1] end
    local done_later = false
    if settle then
      goes_on = true
      settled[settle[1] .. settle[4]] = settle
      if settle[4] == 'waiting' then expects(settle.address) end
      if settle[1] == 'leased' then leave(settle.address) end
      if settle.place then look_behind(settle, in_place) end
      if settle[1] == 'leased' and settle[4] == 'deleted' then
        done_later = true
        completed_keys[#completed_keys + 1] = root .. 'event:' .. settle[2]
        for _, id in ipairs(settle.with or nothing) do completed_keys[#completed_keys + 1] = root .. 'event:' .. id end
        enter(completed_at, leased_at(settle.address), settle[2])
      end
    end
    if (settle and (settle.place or not done_later)) or events ~= nothing or payloads ~= nothing or removed ~= nothing then
      outcomes[#outcomes + 1] = { settle or false, in_place, events, payloads, removed, done_later }
    end
  end
  results[n] = result
end

local function needs_event(id, command, ...) needs(command, root .. 'event:' .. id, ...) end
for _, settle in pairs(settled) do
  local from, id, _, to = unpack(settle)
  for _, set in pairs({ sets[from], sets[to] }) do
    local kind = redis.call('TYPE', set).ok
    if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. set .. ' holds a ' .. kind) end
  end
  if from == 'dead' then needs('ZREM', dead, id) end
  if to == 'deleted' then needs_event(id, 'DEL')
  else
    needs_event(id, 'HSET', 'state', '')
    if sets[to] then needs('ZADD', sets[to], '0', id) end
  end
end
if appended then needs_event(appended, 'HSET', 'state', '') end
if put then needs('SET', root .. 'saga:' .. put, '', 'PXAT', '1') end
if unput then needs('DEL', root .. 'saga:' .. unput) end
if goes_on then needs('ZREM', addresses, '') end
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
    if settle.key then redis.call('HSET', key, 'key', '') end
    redis.call('HSET', key, 'state', to)
    redis.call('ZADD', sets[to] or due_at(settle.address), text(now + tonumber(ms)), id)
  end
  if to == 'done' then
    for _, other in ipairs(settle.with or nothing) do
      redis.call('HSET', root .. 'event:' .. other, 'state', to, 'key', '')
      redis.call('ZADD', done, text(now + tonumber(ms)), other)
    end
  end
  -- Last: whatever goes wrong, the event is still in one of the sets.
  redis.call('ZREM', from == 'leased' and leased_at(settle.address) or dead, id)
end

if goes_on then go_on_when_full() end
learn_addresses()
for _, outcome in ipairs(outcomes) do
  local settle, in_place, _, _, _, done_later = unpack(outcome)
  if settle and not done_later then apply_settlement(settle) end
  if settle and settle.place then yield(settle, in_place) end
end
unblock()
for _, outcome in ipairs(outcomes) do
  local _, _, events, payloads, removed = unpack(outcome)
  for _, event in ipairs(events) do put_event(event, is_behind(event[8], event[1])) end
  for _, payload in ipairs(payloads) do
    redis.call('SET', root .. 'saga:' .. payload[1], payload[2], 'PXAT', moment(payload[3], payload[4]))
  end
  for _, gone in ipairs(removed) do redis.call('DEL', root .. 'saga:' .. gone[1]) end
end
remove_all(completed_at)
in_chunks(completed_keys, function(...) redis.call('DEL', ...) end)
forget_empty(left)
announce(channel)
return results
`)
