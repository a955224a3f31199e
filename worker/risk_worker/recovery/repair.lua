-- Changes fields and records each change. All or nothing: where a field has another value than it was seen to
-- have, nothing is changed.
--
-- KEYS  1: repairs; 2...: the hash of each change
-- ARGV  1: JSON of {kept = how many repairs are kept, by, trader, changes = {{field, why, before, after}...}};
--          before and after are the numbers of the ARGV that hold the value, missing where the field is not there
--       2...: values; they may be any bytes
-- Returns JSON of {changed = how many; 0: a field has changed meanwhile}.
local asked = cjson.decode(ARGV[1])
for i, change in ipairs(asked.changes) do
  local before = change.before and ARGV[change.before] or false
  if redis.call('HGET', KEYS[1 + i], change.field) ~= before then return cjson.encode({ changed = 0 }) end
end
for i, change in ipairs(asked.changes) do
  local key, before, after = KEYS[1 + i], ARGV[change.before] or '', ARGV[change.after]
  redis.call('XADD', KEYS[1], 'MAXLEN', asked.kept, '*', 'by', asked.by, 'trader', asked.trader, 'key', key,
    'field', change.field, 'before', before, 'after', after or '', 'why', change.why)
  if after then
    redis.call('HSET', key, change.field, after)
  else
    redis.call('HDEL', key, change.field)
  end
end
return cjson.encode({ changed = #asked.changes })
