-- Compares a page of Postgres' states with what this Redis knows of their traders, and restores what it had
-- lost. Lowers nothing, and may be repeated. The marker says how far the comparison has come; where it is another
-- one than expected nothing is done: another worker was quicker, or Redis lost its data meanwhile.
--
-- KEYS  floors, epochs, latest, admitted, behind, counters
-- ARGV  1: JSON of {following = the marker after this page, states = {{trader, epoch = text, seq, payload,
--          elsewhere = true where that state came by another partition, which may be missing}...}}
--       2: the marker that is expected, "": none; it may be any bytes
-- Returns JSON of {restored = how many traders something was lost of}, or {overtaken = true}: the marker is another one.
local floors, epochs, latest, admitted, behind, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local page = cjson.decode(ARGV[1])
local wrong = wrong_type(KEYS, { 'hash', 'hash', 'hash', 'hash', 'hash' })
if wrong then return wrong end
if (redis.call('HGET', floors, '') or '') ~= ARGV[2] then return cjson.encode({ overtaken = true }) end

-- Whether a payload is this trader's and not older than (epoch, seq); nil where it cannot be read.
local function is_newer(payload, trader, epoch, seq)
  local readable, state = pcall(cjson.decode, payload)
  if not readable or type(state) ~= 'table' or state.trader_id ~= trader then return nil end
  if type(state.epoch) ~= 'number' or type(state.seq) ~= 'number' then return nil end
  return state.epoch > epoch or (state.epoch == epoch and state.seq >= seq)
end

local restored, admitted_before = 0, 0
for _, each in ipairs(page.states) do
  local trader, epoch, seq, payload = each.trader, tonumber(each.epoch), each.seq, each.payload
  local text = redis.call('HGET', epochs, trader)
  local known = number(text)
  local state = redis.call('HGET', latest, trader)
  local last = text and number(redis.call('HGET', admitted, text .. ':' .. trader)) or 0
  local missing = not state and (last == 0 or (known == epoch and last <= seq))
  local lost = false
  if not known then
    -- It costs the trader a clear error until it is repaired; then the floor is needed.
    lost = not ((number(redis.call('HGET', floors, trader)) or 0) >= epoch)
    if lost then redis.call('HSET', floors, trader, each.epoch) end
  elseif known < epoch then
    lost = true
    redis.call('HSET', floors, trader, each.epoch)
    redis.call('HSET', epochs, trader, each.epoch)
    if known > 0 and (state or last > 0) then
      redis.call('HSET', behind, trader, each.epoch) -- it may have sent snapshots newer than Postgres' state
    elseif not state or is_newer(state, trader, epoch, seq) == false then
      redis.call('HSET', latest, trader, payload)
    end
  elseif missing or (state and is_newer(state, trader, epoch, seq) == false) then
    lost = true
    redis.call('HSET', latest, trader, payload)
  elseif not state then
    redis.call('HSET', behind, trader, text) -- the newest is neither in Postgres yet nor known here
  end
  if lost and not each.elsewhere then restored = restored + 1 end
  if not each.elsewhere then admitted_before = admitted_before + seq end
end
redis.call('HSET', floors, '', page.following)
-- For a person who asks later; what is wrong with that key hinders nothing. Without a marker this Redis is new or was
-- emptied. It was emptied where it has accepted less than is stored, also if all traders have sent anew since.
local accepted = redis.pcall('HGET', counters, 'accepted')
local counted = type(accepted) ~= 'table' and number(accepted)
if restored > 0 or (ARGV[2] == '' and counted and counted < admitted_before) then
  local time = redis.call('TIME')
  redis.pcall('HINCRBY', counters, 'restored', restored)
  redis.pcall('HSET', counters, 'restored_ms', time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
end
return cjson.encode({ restored = restored })
