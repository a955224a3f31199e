-- Makes new epochs of traders known in another partition than the one that gave them out: what an older incarnation
-- still sends here is history's alone from then on, and what is claimed here is greater. May be repeated only with
-- greater epochs: an equal one is another incarnation's.
--
-- KEYS  epochs, floors, superseded
-- ARGV  1: JSON of {traders = {id...}, epochs = {text...}}
-- Returns JSON of {claims = of each, in this order, {}; or {epoch = text}, where an epoch is here that is not smaller,
-- and nothing was changed; or {hash = its name, value} where what is known of the trader cannot be read}.
local epochs, floors, superseded = KEYS[1], KEYS[2], KEYS[3]
local QUICK = 'A text of more than 64 bytes: with it Redis finds a field by its hash, see admit'
local message = cjson.decode(ARGV[1])
local last = redis.pcall('HMGET', epochs, unpack(message.traders))
local floor = redis.pcall('HMGET', floors, unpack(message.traders))
if last.err or floor.err then return wrong_type(KEYS, { 'hash', 'hash' }) end
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local claims, follows, written = {}, {}, {}
for i, trader in ipairs(message.traders) do
  local text = message.epochs[i]
  local before, least, epoch = number(last[i]), number(floor[i]), number(text)
  if not before then
    claims[i] = { hash = 'epochs', value = shown(last[i]) }
  elseif not least then
    claims[i] = { hash = 'floors', value = shown(floor[i]) }
  elseif math.max(before, least) >= epoch then
    claims[i] = { epoch = string.format('%.0f', math.max(before, least)) }
  else
    claims[i] = { epoch = '' }
    written[#written + 1], written[#written + 2] = trader, text
    if before > 0 then follows[#follows + 1] = string.format('%.0f %.0f:%s', now_ms, before, trader) end
  end
end
if #written > 0 then
  redis.call('HSET', epochs, '', QUICK, unpack(written))
  if #follows > 0 then redis.pcall('RPUSH', superseded, unpack(follows)) end
end
return cjson.encode({ claims = claims })
