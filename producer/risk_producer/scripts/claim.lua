-- Gives each trader a new epoch: one more than its last, or this clock in ms, whichever is greater. So an
-- epoch never goes back, even after Redis lost its data.
--
-- KEYS  epochs
-- ARGV  trader ids
-- Returns the epochs as texts, in the order of the ids.
local epochs = KEYS[1]
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

redis.call('HSETNX', epochs, '', 'A text of more than 64 bytes: with it Redis finds a field by its hash, see admit')
local claimed = {}
for i, trader in ipairs(ARGV) do
  local last = tonumber(redis.call('HGET', epochs, trader) or 0)
  claimed[i] = string.format('%d', math.max(last + 1, now_ms))
  redis.call('HSET', epochs, trader, claimed[i])
end
return claimed
