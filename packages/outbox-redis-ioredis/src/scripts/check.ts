import { type Script, script } from './script.ts'

/**
 * Asks the node that keeps the outbox what it is and what it has.
 *
 * KEYS  root
 * ARGV  channel to announce on ('' for none)
 * Returns its INFO ('' when the user may not read it), why nothing can be announced ('' when it can), then name and type
 *   of each key that should be a sorted set and is none
 */
export const CHECK: Script = script(`
local found = { '', '' }
if ARGV[1] ~= '' then
  local told = redis.pcall('PUBLISH', ARGV[1], '')
  if type(told) == 'table' then found[2] = told.err end
end
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
