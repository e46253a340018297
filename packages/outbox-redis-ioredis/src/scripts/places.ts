/**
 * For scripts that append: at which addresses events are put. Each is looked at before the first write, once.
 */
export const ADDRESSES = `
local sizes, unknown = {}, {}
local function expects(address)
  if sizes[address] then return end
  sizes[address] = redis.call('ZCARD', due_at(address))
  needs('ZADD', due_at(address), '0', '')
  if sizes[address] > 0 then return end
  if not unknown[1] then
    redis.call('ZCARD', addresses)
    needs('ZADD', addresses, '0', '')
  end
  unknown[#unknown + 1] = '0'
  unknown[#unknown + 1] = address
end
local function learn_addresses()
  if unknown[1] then in_chunks(unknown, function(...) redis.call('ZADD', addresses, ...) end) end
end
local nothing = {}
-- What most events have not.
local function noted(address, key)
  if address == '' and key == '' then return nothing end
  return { 'address', address, 'key', key }
end
`

/** The same for the keys in which events are put behind others. */
export const PLACES = `
-- The events of a key, in their order; only the first may be taken.
local function places_in(key) return root .. 'key:' .. key end
local tails = {}
-- Of all keys, an example is asked for.
local asked = {}
local function needs_of_keys(command, key, ...)
  if asked[command] then return end
  asked[command] = true
  needs(command, key, ...)
end
-- Why nothing can be put into a key; nothing when it can.
local function expects_key(key)
  if tails[key] ~= nil then return end
  local last = redis.pcall('ZRANGE', places_in(key), -1, -1, 'WITHSCORES')
  if last.err then return refusal(places_in(key), last) end
  if not next(tails) then
    redis.call('ZCARD', blocked)
    needs('ZADD', blocked, '0', '')
  end
  needs_of_keys('ZADD', places_in(key), '0', '')
  tails[key] = tonumber(last[2]) or false
end
-- Gives an event the last place in its key. Says whether it has to wait for one before it.
local function is_behind(key, id)
  if key == '' then return false end
  local tail = tails[key]
  tails[key] = (tail or 0) + 1
  redis.call('ZADD', places_in(key), text(tails[key]), id)
  return tail ~= false
end
`
