import { type Script, script } from './script.ts'

/**
 * Makes leases last longer.
 *
 * KEYS  of every script
 * ARGV  milliseconds from now, then id and attempt of each
 * Returns the ids that are no longer held
 */
export const EXTEND: Script = script(`
local ends = text(now + tonumber(ARGV[1]))
local lost, entries = {}, {}
for position = 2, #ARGV, 2 do
  local id = ARGV[position]
  local event = event_fields(id, 'state', 'attempt', 'type', 'address')
  if event and event[1] == 'leased' and event[2] == ARGV[position + 1] then
    enter(entries, leased_at(address_of(event[3], event[4])), ends, id)
  else
    lost[#lost + 1] = id
  end
end
for set in pairs(entries) do needs('ZADD', set, '0', '') end
if forbidden then return forbidden end
if next(entries) then go_on_when_full() end
add_all(entries)
return lost
`)
