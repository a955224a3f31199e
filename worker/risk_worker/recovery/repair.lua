-- Changes fields and records each change. All or nothing: where a field has another value than it was seen to
-- have, nothing is changed.
--
-- KEYS  1: repairs; 2...: the hash of each change
-- ARGV  1: how many repairs are kept; 2: who; 3: the trader;
--       4...: field, whether it was there (1 or 0), value before, whether it is to be there, value after, why;
--             by change
-- Returns how many were changed; -1: a field has changed meanwhile.
local WIDTH = 6
local function before_of(at)
  return ARGV[at + 1] == '1' and ARGV[at + 2] or false
end
for i = 2, #KEYS do
  local at = 4 + (i - 2) * WIDTH
  if redis.call('HGET', KEYS[i], ARGV[at]) ~= before_of(at) then return -1 end
end
for i = 2, #KEYS do
  local at = 4 + (i - 2) * WIDTH
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'by', ARGV[2], 'trader', ARGV[3], 'key', KEYS[i],
    'field', ARGV[at], 'before', ARGV[at + 2], 'after', ARGV[at + 4], 'why', ARGV[at + 5])
  if ARGV[at + 3] == '1' then
    redis.call('HSET', KEYS[i], ARGV[at], ARGV[at + 4])
  else
    redis.call('HDEL', KEYS[i], ARGV[at])
  end
end
return #KEYS - 1
