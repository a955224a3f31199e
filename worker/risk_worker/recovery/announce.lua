-- Writes a partition's copy of what is agreed on about the number of partitions, unless a newer one is there. May be
-- repeated.
--
-- KEYS  partitioning
-- ARGV  1: version:partitions,other,...
-- Returns what the copy is now.

-- Of a text that can be read, as Partitioning.read() does; 0 where it cannot.
local function version(text)
  local found, list = string.match(text, '^(%d+):([%d,]+)$')
  if not found or #found > 9 then return 0 end
  local seen = {}
  for each in string.gmatch(list .. ',', '(%d*),') do
    local partitions = #each <= 3 and tonumber(each)
    if not partitions or partitions < 1 or partitions > 256 or seen[partitions] then return 0 end
    seen[partitions] = true
  end
  return tonumber(found)
end

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'string' then redis.call('DEL', KEYS[1]) end
local copy = redis.call('GET', KEYS[1]) or ''
if version(copy) >= version(ARGV[1]) then return copy end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
