-- Writes the identity of another database beside a stream, and records it. Where the key holds something else than
-- was shown to the operator, nothing is changed.
--
-- KEYS  database, repairs, floors
-- ARGV  1: JSON of {kept = how many repairs are kept, by, why}
--       2: what the key was seen to hold, "": nothing; it may be any bytes
--       3: the identity to write
-- Returns JSON of {changed = 1}, or {changed = 0}: the key has changed meanwhile.
local asked = cjson.decode(ARGV[1])
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[2] then return cjson.encode({ changed = 0 }) end
redis.call('XADD', KEYS[2], 'MAXLEN', asked.kept, '*', 'by', asked.by, 'trader', '', 'key', KEYS[1],
  'field', '', 'before', ARGV[2], 'after', ARGV[3], 'why', asked.why)
redis.call('SET', KEYS[1], ARGV[3])
redis.pcall('HDEL', KEYS[3], '') -- the workers compare this Redis with the other database then
return cjson.encode({ changed = 1 })
