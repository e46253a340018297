import { ADOPTING } from './adopt.ts'
import { type Script, script } from './script.ts'

/**
 * Deletes completed events past their retention, and takes over some of what processes of the layout before have written.
 *
 * KEYS  of every script
 * ARGV  limit
 * Returns how many were deleted, and '1' when there may be more to take over
 */
export const PURGE: Script = script(`
${ADOPTING}
local ids = redis.call('ZRANGEBYSCORE', done, '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[1]))
if ids[1] then
  needs('ZREM', done, ids[1])
  needs('DEL', root .. 'event:' .. ids[1])
end
if forbidden then return forbidden end
for _, id in ipairs(ids) do
  redis.call('ZREM', done, id)
  redis.call('DEL', root .. 'event:' .. id)
end
return { #ids, adopt() and '1' or '' }
`)
