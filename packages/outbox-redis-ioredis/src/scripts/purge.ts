import { type Script, script } from './script.ts'

/**
 * Deletes completed events past their retention.
 *
 * KEYS  done
 * ARGV  prefix, limit
 * Returns how many
 */
export const PURGE: Script = script(`
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[2]))
for _, id in ipairs(ids) do
  redis.call('DEL', ARGV[1] .. 'event:' .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #ids
`)
