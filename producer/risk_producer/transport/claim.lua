-- Gives each trader a new epoch: greater than its last one and than the one that Postgres knows (its floor, which
-- the workers restore after Redis lost its data), and at least this clock in ms. Always below 2^53.
--
-- KEYS  epochs, floors, superseded
-- ARGV  trader ids; the same may come twice
-- Returns for each the epoch as a text; or, where what is known of the trader cannot be read and nothing was
-- changed, {name of the hash, value}.
local epochs, floors, superseded = KEYS[1], KEYS[2], KEYS[3]
local QUICK = 'A text of more than 64 bytes: with it Redis finds a field by its hash, see admit'
local last = redis.pcall('HMGET', epochs, unpack(ARGV))
local floor = redis.pcall('HMGET', floors, unpack(ARGV))
if last.err or floor.err then return wrong_type(KEYS, { 'hash', 'hash' }) end
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local answers, given, follows, written = {}, {}, {}, {}
for i, trader in ipairs(ARGV) do
  local before, least = given[trader] or number(last[i]), number(floor[i])
  if not before or before + 1 >= LIMIT then
    answers[i] = { 'epochs', shown(last[i]) }
  elseif not least or least + 1 >= LIMIT then
    answers[i] = { 'floors', shown(floor[i]) }
  else
    local epoch = math.max(before + 1, least + 1, now_ms)
    answers[i] = string.format('%.0f', epoch)
    given[trader] = epoch
    written[#written + 1], written[#written + 2] = trader, answers[i]
    if before > 0 then follows[#follows + 1] = string.format('%.0f %.0f:%s', now_ms, before, trader) end
  end
end
if #written > 0 then
  redis.call('HSET', epochs, '', QUICK, unpack(written))
  if #follows > 0 then redis.pcall('RPUSH', superseded, unpack(follows)) end
end
return answers
