import { type Script, script } from './script.ts'

/**
 * Counts events.
 *
 * KEYS  of every script
 * Returns due, leased, dead, milliseconds since the oldest due one is due ('' when none is)
 */
export const STATS: Script = script(`
local moment = text(now)
local oldest = ''
for _, set in ipairs({ due, leased }) do
  local first = redis.call('ZRANGEBYSCORE', set, '-inf', moment, 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] and (oldest == '' or now - first[2] > oldest) then oldest = now - first[2] end
end
return {
  redis.call('ZCOUNT', due, '-inf', moment) + redis.call('ZCOUNT', leased, '-inf', moment),
  redis.call('ZCOUNT', leased, '(' .. moment, '+inf'),
  redis.call('ZCARD', dead),
  oldest == '' and '' or text(oldest),
}
`)
