-- Takes a committed batch off the stream and counts it. May be repeated, also by two workers at once: an
-- entry is counted only by the call that took it off the stream.
--
-- The batch was read as one piece of the stream, and entries are only ever added behind it. So where it is
-- still whole at the stream's head it is cut off as one piece. Where it is not, another worker has taken off
-- some of it, or Redis has lost its data: then the entries' ids are needed, to see which are there.
--
-- KEYS  stream, counters, attempts, failures, latency_ms, latency_buckets
-- ARGV  1: JSON of {first, last, listed, stored = {{trader, count or ids, latency, bounds}...},
--          dead = {{trader, count or ids}...}, duplicates, buckets = {{bound, count}...}};
--          first and last are ids; listed: there are ids, not counts, and a bound for each instead of buckets
-- Returns how many entries this call took off; -1: ask again with ids.
local stream, counters, attempts, failures, latency_ms, latency_buckets =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local batch = cjson.decode(ARGV[1])
local SLICE = 1000 -- unpack() has a limit of some thousands

local cut = nil -- how many entries the piece had
if not batch.listed then
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not head or head[1] ~= batch.first or #redis.call('XRANGE', stream, batch.last, batch.last) == 0 then
    return -1
  end
  cut = redis.call('XTRIM', stream, 'MINID', '=', batch.last) + redis.call('XDEL', stream, batch.last)
end

local buckets = {}
for _, bucket in ipairs(batch.buckets) do buckets[bucket[1]] = bucket[2] end

local function take_off(ids, bounds)
  if cut then return ids end
  local taken = 0
  for at, id in ipairs(ids) do
    if redis.call('XDEL', stream, id) == 1 then
      taken = taken + 1
      if bounds then buckets[bounds[at]] = (buckets[bounds[at]] or 0) + 1 end
    end
  end
  return taken
end

-- Adds to the fields of a hash, as HINCRBY would to each; one by one a thousand traders cost more than their
-- entries.
local function add(hash, fields, amounts)
  for first = 1, #fields, SLICE do
    local last = math.min(first + SLICE - 1, #fields)
    local known = redis.call('HMGET', hash, unpack(fields, first, last))
    local sums = {}
    for at = first, last do
      sums[#sums + 1] = fields[at]
      sums[#sums + 1] = (known[at - first + 1] or 0) + amounts[at]
    end
    redis.call('HSET', hash, unpack(sums))
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
  redis.call('HSET', latency_ms, unpack(latencies, first, math.min(first + 2 * SLICE - 1, #latencies)))
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
  redis.call('HINCRBY', counters, 'batches', 1)
  if stored > 0 then redis.call('HINCRBY', counters, 'stored', stored) end
  if dead > 0 then redis.call('HINCRBY', counters, 'dead', dead) end
  if batch.duplicates > 0 then redis.call('HINCRBY', counters, 'duplicates', batch.duplicates) end
  for bound, count in pairs(buckets) do redis.call('HINCRBY', latency_buckets, bound, count) end
end
return stored + dead
