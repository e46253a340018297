import { type Script, script } from './script.ts'

/**
 * Says what is known of an event, before an outcome about it is queued.
 *
 * KEYS  the event
 * Returns state, attempt, fingerprint; nothing when there is no such event
 */
export const JUDGE: Script = script(`
local event = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'fingerprint')
return event[1] and event or {}
`)
