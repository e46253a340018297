/**
 * For the write script: how a settled event gives up its place in its key, to what is appended in it or to the next one.
 * Everything is looked at before the first write.
 */
export const YIELDS = `
local unblocked, unblocked_at, are_behind = {}, {}, {}
local function is_unblocked(id)
  if not are_behind[1] then
    redis.call('ZCARD', blocked)
    needs('ZREM', blocked, '')
  end
  are_behind[#are_behind + 1] = id
end
-- Those right behind it are completed with it, as far as they are where they are said to be.
local function complete_with(settle)
  settle.with = {}
  for n, named in ipairs(settle.also) do
    local id = settle.places[2 * n + 1]
    local event = id == named[1] and event_fields(id, 'state')
    if not event or event[1] ~= 'blocked' then return end
    is_unblocked(id)
    settle.with[n], settle.gone[n + 1] = id, id
  end
end
-- Why the settled event's key can't be read; nothing when it can. Without the first place in it there is none to give up.
local function find_place(settle, key)
  local set = places_in(key)
  local first = redis.pcall('ZRANGE', set, 0, #(settle.also or nothing) + 1, 'WITHSCORES')
  if first.err then return refusal(set, first) end
  settle.key = key
  if first[1] ~= settle[2] then return end
  settle.place, settle.places = tonumber(first[2]), first
end
-- The next one is unblocked. Those before it that something else has replaced are gone, too.
local function find_next(settle)
  local id = settle.places[2 * #settle.gone + 1]
  while id do
    is_unblocked(id)
    local event = event_fields(id, 'state', 'type', 'address', 'attempt')
    if event then
      if event[1] ~= 'blocked' then return end
      local address, is_taken = address_of(event[2], event[3]), id == settle.taken
      local due = tonumber(redis.call('ZSCORE', blocked, id) or '') or now
      expects(address)
      if not unblocked[1] then needs('HSET', root .. 'event:' .. id, 'state', '') end
      unblocked[#unblocked + 1] = { id, is_taken and text((tonumber(event[4]) or 0) + 1) }
      if not is_taken then return enter(unblocked_at, due_at(address), text(math.max(now, due)), id) end
      leave(address)
      needs('ZADD', leased_at(address), '0', '')
      return enter(unblocked_at, leased_at(address), text(now + settle.lease_ms), id)
    end
    settle.gone[#settle.gone + 1] = id
    id = redis.call('ZRANGE', places_in(settle.key), #settle.gone, #settle.gone)[1]
  end
end
local function find_room(settle, in_place)
  needs_of_keys('ZADD', places_in(settle.key), '0', '')
  if in_place[2] then
    redis.call('ZCARD', blocked)
    needs('ZADD', blocked, '0', '')
  end
end
local function look_behind(settle, in_place)
  settle.gone = { settle[2] }
  needs_of_keys('ZREM', places_in(settle.key), '')
  if in_place[1] then return find_room(settle, in_place) end
  if settle.also then complete_with(settle) end
  find_next(settle)
end
local function yield(settle, in_place)
  local set = places_in(settle.key)
  in_chunks(settle.gone, function(...) redis.call('ZREM', set, ...) end)
  for n, event in ipairs(in_place) do
    redis.call('ZADD', set, text(settle.place - #in_place + n), event[1])
    put_event(event, n > 1)
  end
  if tails[settle.key] ~= nil then
    tails[settle.key] = tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2]) or false
  end
end
local function unblock()
  for _, one in ipairs(unblocked) do
    local key, attempt = root .. 'event:' .. one[1], one[2]
    if attempt then redis.call('HSET', key, 'state', 'leased', 'attempt', attempt)
    else redis.call('HSET', key, 'state', 'waiting') end
  end
  add_all(unblocked_at)
  in_chunks(are_behind, function(...) redis.call('ZREM', blocked, ...) end)
end
`
