import { type Script, script } from './script.ts'

/**
 * Applies outcomes: each entirely or not at all.
 *
 * KEYS  due, leased, done, dead
 * ARGV  prefix, number of outcomes, then for each outcome:
 *         kind ('' for none); with a kind: id, attempt, milliseconds, error, '1' when the attempt counts
 *         number of events, then for each: id, type, body, headers, due at ('' for none), due in, fingerprint ('' for none)
 *         number of payloads, then for each: id, data, expires at ('' for none), expires in
 *         number of removed payloads, then their ids
 * Returns 'outbox', then for each outcome: 'applied', 'lost', or 'duplicate' and the first one's fingerprint after a space
 *
 * Repeating it is safe: a settlement that was applied is lost the second time, and nothing of its outcome is applied twice.
 */
export const WRITE: Script = script(`
local due, leased, done, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, position = ARGV[1], 2
-- An error later on would leave behind what was written before it.
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' holds a ' .. kind) end
end
local function take()
  position = position + 1
  return ARGV[position - 1]
end
local function moment(at, delay)
  if at ~= '' then return at end
  return text(now + tonumber(delay))
end

local function held(kind, key, attempt)
  local event = redis.call('HMGET', key, 'state', 'attempt')
  local needed = (kind == 'revive' or kind == 'discard') and 'dead' or 'leased'
  return event[1] == needed and event[2] == attempt
end

-- Most of what is written completes: those are deleted together, at the end.
local completed, completedKeys, isCompleted = {}, {}, {}

local function settle(kind, id, key, attempt, ms, reason, counted)
  if kind == 'complete' and ms == '0' then
    completed[#completed + 1], completedKeys[#completedKeys + 1], isCompleted[id] = id, key, true
    return
  end
  redis.call('ZREM', (kind == 'revive' or kind == 'discard') and dead or leased, id)
  if kind == 'discard' then
    redis.call('DEL', key)
  elseif kind == 'complete' then
    redis.call('HSET', key, 'state', 'done')
    redis.call('ZADD', done, text(now + tonumber(ms)), id)
  elseif kind == 'bury' then
    redis.call('HSET', key, 'state', 'dead', 'error', reason, 'died', text(now))
    redis.call('ZADD', dead, text(now), id)
  elseif kind == 'revive' then
    redis.call('HSET', key, 'state', 'waiting', 'uncounted', attempt)
    redis.call('ZADD', due, text(now), id)
  else
    redis.call('HSET', key, 'state', 'waiting')
    if reason ~= '' then redis.call('HSET', key, 'error', reason) end
    if counted ~= '1' then redis.call('HINCRBY', key, 'uncounted', 1) end
    redis.call('ZADD', due, text(now + tonumber(ms)), id)
  end
end

local results = { 'outbox' }
for n = 1, tonumber(take()) do
  local result = 'applied'
  local kind = take()
  local id, key, attempt, ms, reason, counted
  if kind ~= '' then
    id, attempt, ms, reason, counted = take(), take(), take(), take(), take()
    key = prefix .. 'event:' .. id
    if isCompleted[id] or not held(kind, key, attempt) then result = 'lost' end
  end
  local events = {}
  for e = 1, tonumber(take()) do
    local event = { take(), take(), take(), take(), take(), take(), take() }
    local known = redis.call('HGET', prefix .. 'event:' .. event[1], 'fingerprint')
    if known and event[7] ~= '' then result = 'duplicate ' .. known end
    if not known then events[#events + 1] = event end
  end
  local payloads = {}
  for p = 1, tonumber(take()) do payloads[p] = { take(), take(), take(), take() } end
  local removed = {}
  for r = 1, tonumber(take()) do removed[r] = prefix .. 'saga:' .. take() end

  if result == 'applied' then
    if kind ~= '' then settle(kind, id, key, attempt, ms, reason, counted) end
    for _, event in ipairs(events) do
      redis.call('HSET', prefix .. 'event:' .. event[1], 'type', event[2], 'body', event[3], 'headers', event[4],
        'fingerprint', event[7], 'created', text(now), 'attempt', '0', 'uncounted', '0', 'state', 'waiting')
      redis.call('ZADD', due, moment(event[5], event[6]), event[1])
    end
    for _, payload in ipairs(payloads) do
      redis.call('SET', prefix .. 'saga:' .. payload[1], payload[2], 'PXAT', moment(payload[3], payload[4]))
    end
    for _, gone in ipairs(removed) do redis.call('DEL', gone) end
  end
  results[n + 1] = result
end
-- Lua takes some 8,000 arguments in one call.
for from = 1, #completed, 4000 do
  local to = math.min(from + 3999, #completed)
  redis.call('ZREM', leased, unpack(completed, from, to))
  redis.call('DEL', unpack(completedKeys, from, to))
end
return results
`)
