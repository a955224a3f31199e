-- Gives each trader a new epoch: greater than its last one and than the one that Postgres knows (its floor, which
-- the workers restore after Redis lost its data), and at least this clock in ms. Always below 2^53.
--
-- KEYS  epochs, floors, superseded
-- ARGV  1: JSON of {traders = {id...}, floors = {id = text}}; the same trader may come twice; floors: epochs that the
--          trader has elsewhere, and that a new one has to exceed too; may be missing
-- Returns JSON of {claims = of each, in this order, {epoch = text}; or {hash = its name, value} where what is known of
-- the trader cannot be read, and nothing was changed}.
local message = cjson.decode(ARGV[1])
local traders, elsewhere = message.traders, message.floors or {}
local last, floor = known_of(traders)
if last.err then return last end

local claims, given = {}, {}
for i, trader in ipairs(traders) do
  local before, least = given[trader] or number(last[i]), number(floor[i])
  if not before or before + 1 >= LIMIT then
    claims[i] = { hash = 'epochs', value = shown(last[i]) }
  elseif not least or least + 1 >= LIMIT then
    claims[i] = { hash = 'floors', value = shown(floor[i]) }
  else
    local epoch = math.max(before + 1, least + 1, (number(elsewhere[trader]) or 0) + 1, now_ms)
    local text = string.format('%.0f', epoch)
    claims[i] = { epoch = text }
    given[trader] = epoch
    follow(trader, text, before)
  end
end
write_epochs()
return cjson.encode({ claims = claims })
