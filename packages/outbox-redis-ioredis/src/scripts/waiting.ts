import { type Script, script } from './script.ts'

/**
 * Says at which addresses there are open events, and how long the soonest of each has been visible.
 *
 * KEYS  of every script
 * Returns address and milliseconds of each
 */
export const WAITING: Script = script(`
local found = {}
for _, address in ipairs(redis.call('ZRANGE', addresses, 0, -1)) do
  local waiting = tonumber(redis.call('ZRANGE', due_at(address), 0, 0, 'WITHSCORES')[2])
  local leased = tonumber(redis.call('ZRANGE', leased_at(address), 0, 0, 'WITHSCORES')[2])
  local soonest = waiting and leased and math.min(waiting, leased) or waiting or leased
  if soonest then
    found[#found + 1] = address
    found[#found + 1] = text(now - soonest)
  end
end
return found
`)
