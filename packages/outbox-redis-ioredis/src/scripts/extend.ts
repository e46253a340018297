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
local lost, scores = {}, {}
for position = 2, #ARGV, 2 do
  local id = ARGV[position]
  local event = event_fields(id, 'state', 'attempt')
  if event and event[1] == 'leased' and event[2] == ARGV[position + 1] then
    scores[#scores + 1], scores[#scores + 2] = ends, id
  else
    lost[#lost + 1] = id
  end
end
if #scores > 0 then go_on_when_full() end
in_chunks(scores, function(...) redis.call('ZADD', leased, ...) end)
return lost
`)
