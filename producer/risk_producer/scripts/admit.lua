-- Admits a batch to the capped stream, in order, as far as there is room. May be repeated: what was admitted
-- before is passed over. Never trims, never goes beyond maxlen.
--
-- KEYS  snapshots, latest, epochs, admitted, counters
-- ARGV  1: maxlen
--       2: JSON of {traders = {id...}, epochs = {text...}, lives = {"epoch:id"...},
--                   of = {number of its trader...}, seqs, merged}; the first three by trader, 1, 2, ...,
--          the others by entry; merged may be left out: all are 0
--       3...: the payloads, by entry
-- Returns how many entries, from the first on, are admitted now, and the numbers of the traders fenced:
-- those for which a newer epoch was given out. Their history goes on, their state is the newer one's.
local snapshots, latest, epochs, admitted, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local PAYLOADS = 2
local QUICK = 'A text of more than 64 bytes: with it Redis finds a field by its hash, without it by trying all'
local room = tonumber(ARGV[1]) - redis.call('XLEN', snapshots)
local batch = cjson.decode(ARGV[2])
local ids, own, lives, of, seqs, merged = batch.traders, batch.epochs, batch.lives, batch.of, batch.seqs, batch.merged
local done = redis.call('HMGET', admitted, unpack(lives))
local known = redis.call('HMGET', epochs, unpack(ids))
for i = 1, #ids do done[i] = tonumber(done[i] or 0) end

local call = redis.call -- a local is quicker, and this is the part that is paid for each entry
local count, added, conflated, newest = 0, 0, 0, {}
for at = 1, #seqs do
  local i, seq = of[at], seqs[at]
  if seq > done[i] then
    if added >= room then break end
    call('XADD', snapshots, '*', 's', ARGV[PAYLOADS + at])
    added = added + 1
    if merged then conflated = conflated + merged[at] end
    done[i] = seq
    newest[i] = at
  end
  count = count + 1
end

local fenced, new_done, new_latest = {}, {}, {}
for i = 1, #ids do
  local fence = false
  if known[i] ~= own[i] then
    fence = tonumber(known[i] or 0) > tonumber(own[i])
    if fence then
      fenced[#fenced + 1] = i
    else
      redis.call('HSET', epochs, '', QUICK, ids[i], own[i]) -- Redis has lost its data
    end
  end
  local at = newest[i]
  if at then
    new_done[#new_done + 1] = lives[i]
    new_done[#new_done + 1] = done[i]
    if not fence then
      new_latest[#new_latest + 1] = ids[i]
      new_latest[#new_latest + 1] = ARGV[PAYLOADS + at]
    end
  end
end
if #new_done > 0 then redis.call('HSET', admitted, '', QUICK, unpack(new_done)) end
if #new_latest > 0 then redis.call('HSET', latest, unpack(new_latest)) end
if added > 0 then redis.call('HINCRBY', counters, 'accepted', added + conflated) end
if conflated > 0 then redis.call('HINCRBY', counters, 'conflated', conflated) end
return { count, fenced }
