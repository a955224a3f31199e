-- Takes a committed batch off the stream and counts it. May be repeated, also by two workers at once: an
-- entry is counted only by the call that took it off the stream.
--
-- The batch was read as one piece of the stream, and entries are only ever added behind it. So where it is
-- still whole at the stream's head, and holds only what a producer admitted, it is cut off as one piece. Where
-- another worker has taken off some of it, Redis has lost its data, or somebody added entries by hand, the
-- entries' ids are needed, to see which are there and which are foreign.
--
-- KEYS  stream, counters, attempts, failures, latency_ms, latency_buckets, admitted
-- ARGV  1: JSON of {first, last, listed, stored = {{trader, count or ids, latency, bounds}...},
--          dead = {{trader, count or ids}...}, duplicates, buckets = {{bound, count}...},
--          lives = {"epoch:trader"...}, highest = {the highest seq in the batch of each life...},
--          unidentified = how many entries name no life, identities = {id = {number of its life, seq}...}};
--          first and last are ids; listed: there are ids and identities instead of counts, and a bound for each
--          instead of buckets
-- Returns how many entries this call took off; -1: ask again with ids.
local stream, counters, attempts, failures, latency_ms, latency_buckets, admitted =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local batch = cjson.decode(ARGV[1])
local SLICE = 1000 -- unpack() has a limit of some thousands
local unreadable = 0

-- The last seq that was admitted of each life; nil where that cannot be read, and so nothing is foreign.
local last_seq = {}
for first = 1, #batch.lives, SLICE do
  local last = math.min(first + SLICE - 1, #batch.lives)
  local known = redis.pcall('HMGET', admitted, unpack(batch.lives, first, last))
  for at = first, last do
    if known.err then last_seq[at] = nil else last_seq[at] = number(known[at - first + 1]) end
  end
end

local cut = nil -- how many entries the piece had
if not batch.listed then
  for at = 1, #batch.lives do
    if last_seq[at] and batch.highest[at] > last_seq[at] then return -1 end
  end
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not head or head[1] ~= batch.first or #redis.call('XRANGE', stream, batch.last, batch.last) == 0 then
    return -1
  end
  cut = redis.call('XTRIM', stream, 'MINID', '=', batch.last) + redis.call('XDEL', stream, batch.last)
end

local buckets, foreign = {}, cut and batch.unidentified or 0
for _, bucket in ipairs(batch.buckets) do buckets[bucket[1]] = bucket[2] end

local function take_off(ids, bounds)
  if cut then return ids end
  local taken = 0
  for at, id in ipairs(ids) do
    if redis.call('XDEL', stream, id) == 1 then
      taken = taken + 1
      if bounds then buckets[bounds[at]] = (buckets[bounds[at]] or 0) + 1 end
      local identity = batch.identities[id]
      local highest = identity and last_seq[identity[1]]
      if not identity or (highest and identity[2] > highest) then foreign = foreign + 1 end
    end
  end
  return taken
end

-- Adds to the fields of a hash, as HINCRBY would to each; one by one a thousand traders cost more than their
-- entries. From here on nothing may fail, for the entries are off the stream: what cannot be counted starts
-- anew, and a key that is no hash is left alone.
local function add(hash, fields, amounts)
  for first = 1, #fields, SLICE do
    local last = math.min(first + SLICE - 1, #fields)
    local known = redis.pcall('HMGET', hash, unpack(fields, first, last))
    if known.err then
      unreadable = unreadable + 1
      return
    end
    local sums = {}
    for at = first, last do
      local sum = number(known[at - first + 1])
      if not sum then sum, unreadable = 0, unreadable + 1 end
      sums[#sums + 1] = fields[at]
      sums[#sums + 1] = math.min(sum + amounts[at], LIMIT - 1)
    end
    redis.pcall('HSET', hash, unpack(sums))
  end
end

local stored, traders, counts, latencies = 0, {}, {}, {}
for _, of in ipairs(batch.stored) do
  local taken = take_off(of[2], of[4])
  if taken > 0 then
    traders[#traders + 1], counts[#counts + 1] = of[1], taken
    latencies[#latencies + 1] = of[1]
    latencies[#latencies + 1] = of[3]
    stored = stored + taken
  end
end
add(attempts, traders, counts)
for first = 1, #latencies, 2 * SLICE do
  redis.pcall('HSET', latency_ms, unpack(latencies, first, math.min(first + 2 * SLICE - 1, #latencies)))
end

local dead = 0
traders, counts = {}, {}
for _, of in ipairs(batch.dead) do
  local taken = take_off(of[2])
  if taken > 0 and of[1] ~= '' then
    traders[#traders + 1], counts[#counts + 1] = of[1], taken
  end
  dead = dead + taken
end
add(attempts, traders, counts)
add(failures, traders, counts)
if cut then stored = cut - dead end -- should somebody have taken out one in the middle by hand

if stored + dead > 0 then
  local bounds, bound_counts = {}, {}
  for bound, count in pairs(buckets) do
    bounds[#bounds + 1], bound_counts[#bound_counts + 1] = bound, count
  end
  add(latency_buckets, bounds, bound_counts)
  local names, amounts = { 'batches' }, { 1 }
  local function count(name, amount)
    if amount > 0 then names[#names + 1], amounts[#amounts + 1] = name, amount end
  end
  count('stored', stored)
  count('dead', dead)
  count('duplicates', batch.duplicates)
  count('foreign', foreign)
  count('unreadable', unreadable)
  add(counters, names, amounts)
  local time = redis.call('TIME')
  redis.pcall('HSET', counters, 'acknowledged_ms', time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
end
return stored + dead
