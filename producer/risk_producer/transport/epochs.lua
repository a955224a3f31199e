-- Stands before claim.lua and supersede.lua: what is known of traders' epochs, and how new ones are written.
--
-- KEYS  epochs, floors, superseded

local epochs, floors, superseded = KEYS[1], KEYS[2], KEYS[3]
local QUICK = 'A text of more than 64 bytes: with it Redis finds a field by its hash, see admit'
local now_ms, written, follows = 0, {}, {}

-- The newest epoch of each trader, and its floor, as they stand there; or an error where a key has another type.
local function known_of(traders)
  local last = redis.pcall('HMGET', epochs, unpack(traders))
  local floor = redis.pcall('HMGET', floors, unpack(traders))
  if last.err or floor.err then return wrong_type(KEYS, { 'hash', 'hash' }) end
  local time = redis.call('TIME')
  now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  return last, floor
end

-- A trader has another epoch from now on, as a text; before: the one that it follows, 0 where there was none.
local function follow(trader, text, before)
  written[#written + 1], written[#written + 2] = trader, text
  if before > 0 then follows[#follows + 1] = string.format('%.0f %.0f:%s', now_ms, before, trader) end
end

local function write_epochs()
  if #written == 0 then return end
  redis.call('HSET', epochs, '', QUICK, unpack(written))
  if #follows > 0 then redis.pcall('RPUSH', superseded, unpack(follows)) end
end
