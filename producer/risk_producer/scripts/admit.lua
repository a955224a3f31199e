-- Admits a batch to the capped stream, in order, as far as there is room. May be repeated: what was admitted
-- before is passed over. Never trims, never goes beyond maxlen.
--
-- KEYS  snapshots, latest, epochs, admitted, counters
-- ARGV  maxlen, number of traders; for each trader: id, epoch; for each entry: number of its trader
--       (1, 2, ...), seq, merged, payload
-- Returns how many entries, from the first on, are admitted now, and the numbers of the traders fenced:
-- those for which a newer epoch was given out. Their history goes on, their state is the newer one's.
local snapshots, latest, epochs, admitted, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local room = tonumber(ARGV[1]) - redis.call('XLEN', snapshots)
local traders = tonumber(ARGV[2])
local first_entry = 3 + 2 * traders

local ids, own, fields = {}, {}, {}
for i = 1, traders do
  ids[i], own[i] = ARGV[1 + 2 * i], ARGV[2 + 2 * i]
  fields[i] = own[i] .. ':' .. ids[i]
end
local done = redis.call('HMGET', admitted, unpack(fields))
local known = redis.call('HMGET', epochs, unpack(ids))
for i = 1, traders do
  done[i] = tonumber(done[i] or 0)
end

local count, added, merged, newest = 0, 0, 0, {}
for at = first_entry, #ARGV, 4 do
  local i, seq = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  if seq > done[i] then
    if added >= room then break end
    redis.call('XADD', snapshots, '*', 's', ARGV[at + 3])
    added = added + 1
    merged = merged + tonumber(ARGV[at + 2])
    done[i] = seq
    newest[i] = at
  end
  count = count + 1
end

local fenced = {}
for i = 1, traders do
  local newest_epoch = tonumber(known[i] or 0)
  if newest_epoch > tonumber(own[i]) then
    fenced[#fenced + 1] = i
  elseif newest_epoch < tonumber(own[i]) then
    redis.call('HSET', epochs, ids[i], own[i]) -- Redis has lost its data
  end
  if newest[i] then
    redis.call('HSET', admitted, fields[i], ARGV[newest[i] + 1])
    if newest_epoch <= tonumber(own[i]) then
      redis.call('HSET', latest, ids[i], ARGV[newest[i] + 3])
    end
  end
end
if added > 0 then redis.call('HINCRBY', counters, 'accepted', added + merged) end
if merged > 0 then redis.call('HINCRBY', counters, 'conflated', merged) end
return { count, fenced }
