import { type Script, script } from './script.ts'

/**
 * Asks the node that keeps the outbox what it is and what it has.
 *
 * KEYS  root
 * Returns its INFO ('' when the user may not read it), then name and type of each key that should be a sorted set and is none
 */
export const CHECK: Script = script(`
local found = { '' }
for _, section in ipairs({ 'server', 'memory', 'persistence' }) do
  local info = redis.pcall('INFO', section)
  if type(info) == 'string' then found[1] = found[1] .. info end
end
for _, key in ipairs({ due, leased, done, dead }) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then found[#found + 1], found[#found + 2] = key, kind end
end
return found
`)
