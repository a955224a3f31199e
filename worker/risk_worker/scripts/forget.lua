-- Looks at the next page of the lives of which Redis knows what it admitted, and forgets those that are both
-- old and not their trader's newest. So a producer that starts anew leaves nothing behind for ever. Calls
-- follow one another through the whole hash, and then again from its beginning.
--
-- KEYS  admitted, epochs, cursor
-- ARGV  1: age in ms from which on an epoch is old; 2: about how many to look at
-- Returns how many were forgotten.
local admitted, epochs, cursor = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local oldest = tonumber(time[1]) * 1000 - tonumber(ARGV[1])

local page = redis.call('HSCAN', admitted, redis.call('GET', cursor) or '0', 'COUNT', ARGV[2])
local forgotten = 0
for at = 1, #page[2], 2 do
  local field = page[2][at]
  local epoch, trader = string.match(field, '^(%d+):(.*)$')
  if epoch and tonumber(epoch) < oldest and redis.call('HGET', epochs, trader) ~= epoch then
    forgotten = forgotten + redis.call('HDEL', admitted, field)
  end
end
redis.call('SET', cursor, page[1])
return forgotten
