-- Takes a committed batch off the stream and counts it. May be repeated, also by two workers at once: an
-- entry is counted only by the call whose XDEL took it off the stream.
--
-- KEYS  stream, counters, attempts, failures, latency_ms, latency_buckets
-- ARGV  1: JSON of {stored = {{trader, latency, ids}...}, dead = {{trader, ids}...}, duplicates,
--          buckets = {{bound, count}...}}
-- Returns how many entries this call took off.
local stream, counters, attempts, failures, latency_ms, latency_buckets =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local batch = cjson.decode(ARGV[1])
local SLICE = 1000 -- unpack() has a limit of some thousands

local function settle(ids)
  local taken = 0
  for first = 1, #ids, SLICE do
    local last = math.min(first + SLICE - 1, #ids)
    taken = taken + redis.call('XDEL', stream, unpack(ids, first, last))
  end
  return taken
end

local stored, dead = 0, 0
for _, of in ipairs(batch.stored) do
  local taken = settle(of[3])
  if taken > 0 then
    redis.call('HINCRBY', attempts, of[1], taken)
    redis.call('HSET', latency_ms, of[1], of[2])
    stored = stored + taken
  end
end
for _, of in ipairs(batch.dead) do
  local taken = settle(of[2])
  if taken > 0 and of[1] ~= '' then
    redis.call('HINCRBY', attempts, of[1], taken)
    redis.call('HINCRBY', failures, of[1], taken)
  end
  dead = dead + taken
end

if stored + dead > 0 then
  redis.call('HINCRBY', counters, 'batches', 1)
  if stored > 0 then redis.call('HINCRBY', counters, 'stored', stored) end
  if dead > 0 then redis.call('HINCRBY', counters, 'dead', dead) end
  if batch.duplicates > 0 then redis.call('HINCRBY', counters, 'duplicates', batch.duplicates) end
  for _, bucket in ipairs(batch.buckets) do
    redis.call('HINCRBY', latency_buckets, bucket[1], bucket[2])
  end
end
return stored + dead
