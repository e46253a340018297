import { type Script, script } from './script.ts'

/**
 * Lists dead letters by when they died, then by id.
 *
 * KEYS  dead
 * ARGV  prefix, limit, type ('' for any), died after, id after, then ids (none for all)
 * Returns for each: id, type, body, headers, created, attempt, uncounted, error, died
 */
export const DEAD: Script = script(`
local dead, prefix, limit, kind, since, after = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local wanted = {}
for position = 6, #ARGV do wanted[ARGV[position]] = true end
local letters, count, offset = {}, 0, 0
local function add(id, died)
  if died == since and id <= after then return end
  if #ARGV > 5 and not wanted[id] then return end
  local event = redis.call('HMGET', prefix .. 'event:' .. id, 'type', 'body', 'headers', 'created', 'attempt', 'uncounted', 'error')
  if kind ~= '' and event[1] ~= kind then return end
  count = count + 1
  letters[#letters + 1] = id
  for field = 1, 7 do letters[#letters + 1] = event[field] or '' end
  letters[#letters + 1] = died
end
while count < limit do
  local page = redis.call('ZRANGEBYSCORE', dead, since, '+inf', 'WITHSCORES', 'LIMIT', offset, 200)
  if #page == 0 then break end
  for position = 1, #page, 2 do
    if count < limit then add(page[position], page[position + 1]) end
  end
  offset = offset + 200
end
return letters
`)
