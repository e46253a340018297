import { type Script, script } from './script.ts'

/**
 * Keeps a completed event.
 *
 * KEYS  of every script
 * ARGV  id, milliseconds from now
 * Returns nothing
 */
export const KEEP: Script = script(`
local event = event_fields(ARGV[1], 'state')
if not event or event[1] ~= 'done' then return end
go_on_when_full()
redis.call('ZADD', done, text(now + tonumber(ARGV[2])), ARGV[1])
`)
