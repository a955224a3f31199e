-- Makes new epochs of traders known in another partition than the one that gave them out: what an older incarnation
-- still sends here is history's alone from then on, and what is claimed here is greater. May be repeated only with
-- greater epochs: an equal one is another incarnation's.
--
-- KEYS  epochs, floors, superseded
-- ARGV  1: JSON of {traders = {id...}, epochs = {text...}}
-- Returns JSON of {claims = of each, in this order, {}; or {epoch = text}, where an epoch is here that is not smaller,
-- and nothing was changed; or {hash = its name, value} where what is known of the trader cannot be read}.
local message = cjson.decode(ARGV[1])
local last, floor = known_of(message.traders)
if last.err then return last end

local claims = {}
for i, trader in ipairs(message.traders) do
  local text = message.epochs[i]
  local before, least, epoch = number(last[i]), number(floor[i]), number(text)
  if not before then
    claims[i] = { hash = 'epochs', value = shown(last[i]) }
  elseif not least then
    claims[i] = { hash = 'floors', value = shown(floor[i]) }
  elseif math.max(before, least) >= epoch then
    claims[i] = { epoch = string.format('%.0f', math.max(before, least)) }
  else
    claims[i] = { epoch = '' }
    follow(trader, text, before)
  end
end
write_epochs()
return cjson.encode({ claims = claims })
