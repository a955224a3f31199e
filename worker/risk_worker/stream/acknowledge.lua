-- Takes a committed batch off the stream and counts it. May be repeated, also by two workers at once: an
-- entry is counted only by the call that took it off the stream.
--
-- The batch was read as one piece of the stream, and entries are only ever added behind it. So where it is
-- still whole at the stream's head, and holds only what a producer admitted, it is cut off as one piece. Where
-- another worker has taken off some of it, Redis has lost its data, or entries were added by hand, the
-- entries' ids are needed, to see which are there and which are foreign.
--
-- KEYS  stream, counters, attempts, failures, latency_ms, latency_buckets, admitted, database
-- ARGV  1: JSON of an Acknowledgement (acknowledgement.py): first, last, listed,
--          stored = {traders, counts, latencies_ms, entries}, dead = {traders, counts, entries}, duplicates,
--          buckets = {bound = count}, waited_ms, incarnations = {fields, highest}, unidentified,
--          database = the identity of the one in which it is committed, "" where that is not compared;
--          each of traders, counts, latencies_ms, entries, fields and highest is a list; each of entries is
--          {{id, seq, incarnation, bound, waited_ms}...}, only where listed; what is 0 or empty may be missing
-- Returns JSON of {taken_off = how many entries this call took off}; or {ids_needed = true}: ask again, listed; or
-- {database = the identity that is there}: the stream is another database's, and nothing was done.
local stream, counters, attempts, failures, latency_ms, latency_buckets, admitted, database =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local batch = cjson.decode(ARGV[1])
local owner = batch.database ~= '' and redis.call('GET', database)
if owner and owner ~= batch.database then return cjson.encode({ database = shown(owner) }) end
local AGAIN = cjson.encode({ ids_needed = true })
local SLICE = 1000 -- unpack() has a limit of some thousands
local unreadable = 0

-- The last seq that was admitted of each incarnation; nil where that cannot be read, and so nothing is foreign.
local last_seq, fields, highest = {}, batch.incarnations.fields, batch.incarnations.highest
for first = 1, #fields, SLICE do
  local last = math.min(first + SLICE - 1, #fields)
  local known = redis.pcall('HMGET', admitted, unpack(fields, first, last))
  for at = first, last do
    if known.err then last_seq[at] = nil else last_seq[at] = number(known[at - first + 1]) end
  end
end

local cut = nil -- how many entries the piece had
if not batch.listed then
  for at = 1, #fields do
    if last_seq[at] and highest[at] > last_seq[at] then return AGAIN end
  end
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not head or head[1] ~= batch.first or #redis.call('XRANGE', stream, batch.last, batch.last) == 0 then
    return AGAIN
  end
  cut = redis.call('XTRIM', stream, 'MINID', '=', batch.last) + redis.call('XDEL', stream, batch.last)
end

local buckets, waited_ms, foreign = batch.buckets, batch.waited_ms or 0, cut and batch.unidentified or 0

-- Takes entries of one trader off the stream; returns how many there were.
local function take_off(entries)
  local taken = 0
  for _, entry in ipairs(entries) do
    if redis.call('XDEL', stream, entry.id) == 1 then
      taken = taken + 1
      if entry.bound then buckets[entry.bound] = (buckets[entry.bound] or 0) + 1 end
      waited_ms = waited_ms + (entry.waited_ms or 0)
      local last = entry.incarnation and last_seq[entry.incarnation]
      if not entry.incarnation or (last and entry.seq > last) then foreign = foreign + 1 end
    end
  end
  return taken
end

-- Takes off what is listed, where no piece was cut. Returns how many entries came off, of which traders how many, and
-- their latencies as HSET takes them.
local function take_off_of(of)
  local sum, traders, counts, latencies = 0, {}, {}, {}
  for at, trader in ipairs(of.traders) do
    local taken = cut and of.counts[at] or take_off(of.entries[at])
    sum = sum + taken
    if taken > 0 and trader ~= '' then
      local n = #traders + 1
      traders[n], counts[n] = trader, taken
      if of.latencies_ms then latencies[2 * n - 1], latencies[2 * n] = trader, of.latencies_ms[at] end
    end
  end
  return sum, traders, counts, latencies
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
      local n = 2 * (at - first) + 1
      sums[n], sums[n + 1] = fields[at], math.min(sum + amounts[at], LIMIT - 1)
    end
    redis.pcall('HSET', hash, unpack(sums))
  end
end

local stored, traders, counts, latencies = take_off_of(batch.stored)
add(attempts, traders, counts)
for first = 1, #latencies, 2 * SLICE do
  redis.pcall('HSET', latency_ms, unpack(latencies, first, math.min(first + 2 * SLICE - 1, #latencies)))
end

local dead
dead, traders, counts = take_off_of(batch.dead)
add(attempts, traders, counts)
add(failures, traders, counts)
if cut then stored = cut - dead end -- one in the middle may have been taken out by hand

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
  count('latency_sum_ms', waited_ms)
  count('unreadable', unreadable)
  add(counters, names, amounts)
  local time = redis.call('TIME')
  redis.pcall('HSET', counters, 'acknowledged_ms', time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
end
return cjson.encode({ taken_off = stored + dead })
