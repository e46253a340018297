import { type Script, script } from './script.ts'

/**
 * Deletes completed events past their retention.
 *
 * KEYS  of every script
 * ARGV  limit
 * Returns how many
 */
export const PURGE: Script = script(`
local ids = redis.call('ZRANGEBYSCORE', done, '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[1]))
if #ids == 0 then return 0 end
needs('ZREM', done, ids[1])
needs('DEL', root .. 'event:' .. ids[1])
if forbidden then return forbidden end
for _, id in ipairs(ids) do
  redis.call('ZREM', done, id)
  redis.call('DEL', root .. 'event:' .. id)
end
return #ids
`)
