import { type Script, script } from './script.ts'

/**
 * Says what is known of an event, before an outcome about it is queued.
 *
 * KEYS  root
 * ARGV  id
 * Returns state, attempt, fingerprint; nothing when there is no such event. Fails when its key holds something else.
 */
export const JUDGE: Script = script(`
local event = redis.call('HMGET', root .. 'event:' .. ARGV[1], 'state', 'attempt', 'fingerprint')
return event[1] and event or {}
`)
