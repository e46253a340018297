import { type Script, script } from './script.ts'

/**
 * Deletes completed events past their retention.
 *
 * KEYS  root
 * ARGV  limit
 * Returns how many
 */
export const PURGE: Script = script(`
local ids = redis.call('ZRANGEBYSCORE', done, '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[1]))
for _, id in ipairs(ids) do
  redis.call('ZREM', done, id)
  redis.call('DEL', root .. 'event:' .. id)
end
return #ids
`)
