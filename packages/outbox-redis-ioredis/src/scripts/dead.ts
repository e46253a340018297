import { type Script, script } from './script.ts'

/**
 * Lists dead letters by when they died, then by id. Looks at no more than a thousand of them at once.
 *
 * KEYS  of every script
 * ARGV  limit, type ('' for any), died after ('' for all), id after, then ids (none for all)
 * Returns died and id of the one it looked at last ('' and '' when there are no more), then for each letter:
 *   id, type, body, headers, created, attempt, uncounted, address ('' for the type), key ('' for none), error, died, how many
 *   wait behind it
 */
export const DEAD: Script = script(`
local limit, kind, since, after = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
-- Lua's own comparison follows the server's locale, Redis's order does not.
local function precedes(one, other)
  for position = 1, math.min(#one, #other) do
    local a, b = one:byte(position), other:byte(position)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- It is the first of its key as long as it has one.
local function behind(key)
  local length = key and key ~= '' and redis.pcall('ZCARD', root .. 'key:' .. key)
  return type(length) == 'number' and math.max(0, length - 1) or 0
end

local letters, count = { '', '' }, 0
local function look_at(id, died)
  letters[1], letters[2] = died, id
  local event = event_fields(id, 'type', 'body', 'headers', 'created', 'attempt', 'uncounted', 'address', 'key', 'error')
  if not event or (kind ~= '' and event[1] ~= kind) then return end
  letters[#letters + 1] = id
  for field = 1, 9 do letters[#letters + 1] = event[field] or '' end
  letters[#letters + 1] = died
  letters[#letters + 1] = behind(event[8])
  count = count + 1
end
local function no_more()
  letters[1], letters[2] = '', ''
  return letters
end

if #ARGV > 4 then
  local wanted = {}
  for position = 5, #ARGV do
    local id = ARGV[position]
    local died = redis.call('ZSCORE', dead, id)
    local at = tonumber(died or '')
    local seen = died and since and (at < since or (at == since and not precedes(after, id)))
    if died and not seen then wanted[#wanted + 1] = { id, died } end
  end
  table.sort(wanted, function(one, other)
    if one[2] ~= other[2] then return tonumber(one[2]) < tonumber(other[2]) end
    return precedes(one[1], other[1])
  end)
  for _, letter in ipairs(wanted) do
    look_at(letter[1], letter[2])
    if count == limit then return letters end
  end
  return no_more()
end

-- Several may have died in one millisecond, and the one looked at last may be gone.
local rank, last = 0, 0
if since then
  rank, last = redis.call('ZCOUNT', dead, '-inf', '(' .. ARGV[3]), redis.call('ZCOUNT', dead, '-inf', ARGV[3])
end
while rank < last do
  local middle = math.floor((rank + last) / 2)
  if precedes(after, redis.call('ZRANGE', dead, middle, middle)[1]) then last = middle else rank = middle + 1 end
end
for from = rank, rank + 999, 200 do
  local page = redis.call('ZRANGE', dead, from, from + 199, 'WITHSCORES')
  for position = 1, #page, 2 do
    look_at(page[position], page[position + 1])
    if count == limit then return letters end
  end
  if #page < 400 then return no_more() end
end
return letters
`)
