-- Writes a partition's copy of what is agreed on about the number of partitions, unless a newer one is there. May be
-- repeated.
--
-- KEYS  partitioning
-- ARGV  1: version:partitions,other,...
-- Returns what the copy is now.
local function version(text)
  return tonumber(string.match(text, '^(%d+):[%d,]+$') or 0)
end

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'string' then redis.call('DEL', KEYS[1]) end
local copy = redis.call('GET', KEYS[1]) or ''
if version(copy) >= version(ARGV[1]) then return copy end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
