import { type Script, script } from './script.ts'

const AT_ONCE = 500

/**
 * Of the first layout, where events that waited were in one set and leased ones in another. Processes that know no other go on
 * with these while they run; what they leave there is taken over: all that waits, and leases that have run out.
 */
export const ADOPTING: string = `
local function adopt_from(set, latest)
  local ids = redis.pcall('ZRANGEBYSCORE', set, '-inf', latest, 'WITHSCORES', 'LIMIT', 0, ${AT_ONCE})
  if ids.err or not ids[1] then return 0 end
  local entries, known, adopted = {}, {}, {}
  for at = 1, #ids, 2 do
    local id, score = ids[at], ids[at + 1]
    local event = event_fields(id, 'state', 'type', 'address')
    local address = event and address_of(event[2], event[3])
    local is_leased = event and event[1] == 'leased'
    -- A lease in the sets of this layout is a later one.
    if event and (event[1] == 'waiting' or (is_leased and not redis.call('ZSCORE', leased_at(address), id))) then
      enter(entries, is_leased and leased_at(address) or due_at(address), score, id)
      if not known[address] then enter(entries, addresses, '0', address) end
      known[address] = true
    end
    adopted[#adopted + 1] = id
  end
  for into in pairs(entries) do needs('ZADD', into, '0', '') end
  needs('ZREM', set, '')
  if forbidden then return 0 end
  go_on_when_full()
  add_all(entries)
  in_chunks(adopted, function(...) redis.call('ZREM', set, ...) end)
  return #adopted
end
-- Whether there may be more.
local function adopt()
  local waiting, expired = adopt_from(root .. 'due', '+inf'), adopt_from(root .. 'leased', text(now))
  return math.max(waiting, expired) == ${AT_ONCE}
end
`

/**
 * Takes over some of what is in the layout before this one. When that was all, it notes the version of this one.
 *
 * KEYS  of every script
 * ARGV  version of the layout
 * Returns 1 when there may be more, else 0
 */
export const ADOPT: Script = script(`
${ADOPTING}
if adopt() then return 1 end
if forbidden then return forbidden end
local noted = tonumber(redis.call('GET', root .. 'version') or '0')
if noted and noted < tonumber(ARGV[1]) then redis.call('SET', root .. 'version', ARGV[1]) end
return 0
`)
