-- Admits a batch to the capped stream, in order, as far as there is room. May be repeated: what was admitted
-- before is passed over. Never trims, never goes beyond maxlen.
--
-- KEYS  snapshots, latest, epochs, admitted, counters
-- ARGV  1: maxlen
--       2: JSON of {traders = {id...}, epochs = {text...}, of = {number of its trader...}, seqs, merged}; the
--          first two by trader, 1, 2, ..., the others by entry
--       3...: the payloads, by entry
-- Returns how many entries, from the first on, are admitted now, and the numbers of the traders fenced:
-- those for which a newer epoch was given out. Their history goes on, their state is the newer one's.
local snapshots, latest, epochs, admitted, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local PAYLOADS = 2
local room = tonumber(ARGV[1]) - redis.call('XLEN', snapshots)
local batch = cjson.decode(ARGV[2])
local ids, own, of, seqs = batch.traders, batch.epochs, batch.of, batch.seqs

local fields = {}
for i = 1, #ids do
  fields[i] = own[i] .. ':' .. ids[i]
end
local done = redis.call('HMGET', admitted, unpack(fields))
local known = redis.call('HMGET', epochs, unpack(ids))
for i = 1, #ids do
  done[i] = tonumber(done[i] or 0)
end

local count, added, merged, newest = 0, 0, 0, {}
for at = 1, #seqs do
  local i, seq = of[at], seqs[at]
  if seq > done[i] then
    if added >= room then break end
    redis.call('XADD', snapshots, '*', 's', ARGV[PAYLOADS + at])
    added = added + 1
    merged = merged + batch.merged[at]
    done[i] = seq
    newest[i] = at
  end
  count = count + 1
end

local fenced, new_done, new_latest = {}, {}, {}
for i = 1, #ids do
  local newest_epoch, own_epoch = tonumber(known[i] or 0), tonumber(own[i])
  if newest_epoch > own_epoch then
    fenced[#fenced + 1] = i
  elseif newest_epoch < own_epoch then
    redis.call('HSET', epochs, ids[i], own[i]) -- Redis has lost its data
  end
  if newest[i] then
    new_done[#new_done + 1] = fields[i]
    new_done[#new_done + 1] = string.format('%d', done[i])
    if newest_epoch <= own_epoch then
      new_latest[#new_latest + 1] = ids[i]
      new_latest[#new_latest + 1] = ARGV[PAYLOADS + newest[i]]
    end
  end
end
if #new_done > 0 then redis.call('HSET', admitted, unpack(new_done)) end
if #new_latest > 0 then redis.call('HSET', latest, unpack(new_latest)) end
if added > 0 then redis.call('HINCRBY', counters, 'accepted', added + merged) end
if merged > 0 then redis.call('HINCRBY', counters, 'conflated', merged) end
return { count, fenced }
