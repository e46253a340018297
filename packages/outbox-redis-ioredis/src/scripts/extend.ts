import { type Script, script } from './script.ts'

/**
 * Makes leases last longer.
 *
 * KEYS  leased
 * ARGV  prefix, milliseconds from now, then id and attempt of each
 * Returns the ids that are no longer held
 */
export const EXTEND: Script = script(`
local leased, prefix, ends = KEYS[1], ARGV[1], text(now + tonumber(ARGV[2]))
local lost = {}
for position = 3, #ARGV, 2 do
  local id = ARGV[position]
  local event = redis.call('HMGET', prefix .. 'event:' .. id, 'state', 'attempt')
  if event[1] == 'leased' and event[2] == ARGV[position + 1] then
    redis.call('ZADD', leased, ends, id)
  else
    lost[#lost + 1] = id
  end
end
return lost
`)
