-- Forgets what Redis admitted of producers that a newer one followed long ago, so that a producer that starts
-- anew leaves nothing behind for ever. The list has them in the order in which they were followed.
--
-- KEYS  superseded, admitted, epochs, snapshots
-- ARGV  1: JSON of {keep_ms = for how long it is remembered at the least, page = how many to look at}
-- Returns JSON of {forgotten = how many}.
local superseded, admitted, epochs, snapshots = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local asked = cjson.decode(ARGV[1])
local wrong = wrong_type(KEYS, { 'list', 'hash', 'hash', 'stream' })
if wrong then return wrong end
local time = redis.call('TIME')
local before = tonumber(time[1]) * 1000 - asked.keep_ms
-- What is still in the stream came before the oldest entry or with it: acknowledging has to know it.
local head = redis.call('XRANGE', snapshots, '-', '+', 'COUNT', 1)[1]
if head then before = math.min(before, tonumber(string.match(head[1], '^%d+'))) end

local looked, forgotten = 0, {}
local list = redis.call('LRANGE', superseded, 0, asked.page - 1)
for _, text in ipairs(list) do
  local at, epoch, trader = string.match(text, '^(%d+) (%d+):(.*)$')
  local followed = at and number(at)
  if followed and followed >= before then break end
  looked = looked + 1
  if followed and redis.call('HGET', epochs, trader) ~= epoch then forgotten[#forgotten + 1] = epoch .. ':' .. trader end
end
if looked > 0 then redis.call('LTRIM', superseded, looked, -1) end
local count = 0
if #forgotten > 0 then count = redis.call('HDEL', admitted, unpack(forgotten)) end
return cjson.encode({ forgotten = count })
