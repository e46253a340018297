import { type Script, script } from './script.ts'

/**
 * Counts events.
 *
 * KEYS  of every script
 * Returns due, leased, dead, blocked, milliseconds since the oldest due one is due ('' when none is), then address and number
 *   of those that are due for each address that has some
 */
export const STATS: Script = script(`
local moment = text(now)
local due, leased, oldest, found = 0, 0, nil, { '', '', '', '', '' }
local function count_due(set)
  local count = redis.call('ZCOUNT', set, '-inf', moment)
  if count > 0 then oldest = math.max(oldest or 0, now - redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]) end
  return count
end
for _, address in ipairs(redis.call('ZRANGE', addresses, 0, -1)) do
  local count = count_due(due_at(address)) + count_due(leased_at(address))
  due = due + count
  leased = leased + redis.call('ZCOUNT', leased_at(address), '(' .. moment, '+inf')
  if count > 0 then
    found[#found + 1] = address
    found[#found + 1] = count
  end
end
found[1], found[2], found[3], found[4] = due, leased, redis.call('ZCARD', dead), redis.call('ZCARD', blocked)
found[5] = oldest and text(oldest) or ''
return found
`)
