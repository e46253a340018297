import { type Script, script } from './script.ts'

/**
 * Says what is known of an event, before an outcome about it is queued.
 *
 * KEYS  of every script
 * ARGV  id
 * Returns state, attempt, fingerprint; nothing when there is no such event. Fails when its key holds something else.
 */
export const JUDGE: Script = script(`
local key = root .. 'event:' .. ARGV[1]
local event = redis.pcall('HMGET', key, 'state', 'attempt', 'fingerprint')
if event.err then return refusal(key, event) end
return event[1] and event or {}
`)
