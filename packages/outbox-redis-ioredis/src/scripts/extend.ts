import { type Script, script } from './script.ts'

/**
 * Makes leases last longer.
 *
 * KEYS  root
 * ARGV  milliseconds from now, then id and attempt of each
 * Returns the ids that are no longer held
 */
export const EXTEND: Script = script(`
go_on_when_full()
local ends = text(now + tonumber(ARGV[1]))
local lost = {}
for position = 2, #ARGV, 2 do
  local id = ARGV[position]
  local event = event_fields(id, 'state', 'attempt')
  if event and event[1] == 'leased' and event[2] == ARGV[position + 1] then
    redis.call('ZADD', leased, ends, id)
  else
    lost[#lost + 1] = id
  end
end
return lost
`)
