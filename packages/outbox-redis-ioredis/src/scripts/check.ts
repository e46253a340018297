import { type Script, script } from './script.ts'

/**
 * Asks the node that keeps the outbox what it is, what it has and what this user may do. Redis 7 tells what a user may do;
 * older ones are asked by commands that change nothing.
 *
 * KEYS  of every script
 * ARGV  channel to announce on ('' for none)
 * Returns INFO ('' when the user may not read it), why nothing can be announced ('' when it can), the version that is noted
 *   ('' when there is none), why nothing can be written ('' when it can), what the user lacks with spaces between, then name
 *   and type of each key that holds something else
 */
export const CHECK: Script = script(`
local found, lacking = { '', '', '', '', '' }, {}
local function is_forbidden(reply)
  return type(reply) == 'table' and reply.err and
    (reply.err:find('NOPERM', 1, true) or reply.err:find("can't run this command", 1, true) or reply.err:find("can't access", 1, true))
end
local function asks(command, key, ...)
  local may
  if redis.acl_check_cmd then may = redis.acl_check_cmd(command, key, ...) else may = not is_forbidden(redis.pcall(command, key, ...)) end
  if not may then lacking[#lacking + 1] = command:lower() .. ':' .. key end
end
-- Only of those that can tell without doing it.
local function asks_outside_scripts(command, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, ...) then lacking[#lacking + 1] = command:lower() end
end
local event, payload, places = root .. 'event:', root .. 'saga:', root .. 'key:'
for _, set in ipairs({ due_at(''), leased_at(''), places, addresses, blocked, done, dead, root .. 'due', root .. 'leased' }) do
  asks('ZADD', set, 'XX', '0', '')
  asks('ZREM', set, '')
  asks('ZRANGEBYSCORE', set, '0', '0', 'LIMIT', '0', '1')
  asks('ZCOUNT', set, '0', '0')
  asks('ZCARD', set)
  asks('TYPE', set)
end
for _, set in ipairs({ due_at(''), leased_at(''), places, addresses, dead }) do asks('ZRANGE', set, '0', '0') end
for _, set in ipairs({ leased_at(''), blocked, dead }) do asks('ZSCORE', set, '') end
-- Of a number of arguments that HSET refuses.
asks('HSET', event, 'a', 'b', 'c')
asks('HGET', event, 'state')
asks('HMGET', event, 'state')
asks('HEXISTS', event, 'state')
asks('DEL', event)
asks('SET', payload, '', 'XX')
asks('GET', payload)
asks('GETEX', payload)
asks('DEL', payload)
for _, own in ipairs({ root .. 'lease:', root .. 'version' }) do
  asks('SET', own, '', 'XX', 'KEEPTTL')
  asks('GET', own)
end
asks_outside_scripts('EVAL', '', '0')
asks_outside_scripts('EVALSHA', '', '0')
asks_outside_scripts('PING')
asks_outside_scripts('MULTI')
asks_outside_scripts('EXEC')
asks_outside_scripts('DISCARD')

if ARGV[1] ~= '' then
  local told = redis.pcall('PUBLISH', ARGV[1], '')
  if type(told) == 'table' then found[2] = told.err end
end
for _, section in ipairs({ 'server', 'memory', 'persistence' }) do
  local info = redis.pcall('INFO', section)
  if type(info) == 'string' then found[1] = found[1] .. info end
end
found[5] = table.concat(lacking, ' ')
if #lacking > 0 then return found end

local function assert_set(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then found[#found + 1], found[#found + 2] = key, kind end
end

for _, key in ipairs({ addresses, blocked, done, dead, root .. 'due', root .. 'leased' }) do
  assert_set(key)
end
if redis.call('TYPE', addresses).ok == 'zset' then
  for _, address in ipairs(redis.call('ZRANGE', addresses, 0, -1)) do
    assert_set(due_at(address))
    assert_set(leased_at(address))
  end
end
local kind = redis.call('TYPE', root .. 'version').ok
if kind ~= 'string' and kind ~= 'none' then found[#found + 1], found[#found + 2] = root .. 'version', kind end
if #found > 5 then return found end

found[3] = redis.call('GET', root .. 'version') or ''
local tried = redis.pcall('ZREM', addresses, '')
if type(tried) == 'table' then found[4] = tried.err end
return found
`)
