// Of all that is behind, in one lease: other clients are not to wait for long.
const MOST_EVENTS = 400
const MOST_CHARACTERS = 1_000_000

/** For the lease script: tells of what waits behind a leased event in its key, as far as it is due and its worker can take it. */
export const BEHIND: string = `
local asked, told, characters
local function tell_behind(key)
  if most_behind == 0 or not key or key == '' then return end
  if not asked then
    asked, told, characters = {}, 0, 0
    for at = first_share, #ARGV, 2 do asked[ARGV[at]] = true end
  end
  local most = math.min(most_behind, ${MOST_EVENTS} - told)
  if most < 1 then return end
  for _, id in ipairs(redis.call('ZRANGE', root .. 'key:' .. key, 1, most)) do
    local event = event_fields(id, 'attempt', 'type', 'body', 'headers', 'created', 'uncounted', 'key', 'address', 'state')
    local address = event and address_of(event[2], event[8])
    if not event or event[9] ~= 'blocked' or not asked[address] then return end
    local due = tonumber(redis.call('ZSCORE', blocked, id) or '')
    characters = characters + #event[3]
    if not due or due > now or characters > ${MOST_CHARACTERS} then return end
    told = told + 1
    hand_out(id, '+' .. event[1], event, address, key)
  end
end
`
