-- Stands before each script: nothing that is read back from Redis is trusted. A script checks all that it needs
-- before its first write, because what was written before an error stays.

local LIMIT = 9007199254740992 -- 2^53: from here on a double does not tell whole numbers apart

-- The whole number in a field: 0 where there is no field, nil where it cannot be read.
local function number(text)
  if not text then return 0 end
  if #text > 16 or not string.find(text, '^%d+$') then return nil end
  local value = tonumber(text)
  if value < LIMIT then return value end
  return nil
end

-- The beginning of a value, as a text that any client can read.
local function shown(value)
  local text = string.gsub(string.sub(value, 1, 40), '[^ -~]', function(c)
    return string.format('\\x%02x', string.byte(c))
  end)
  if #value > 40 then text = text .. '...' end
  return text
end

-- An error that names the key where one has another type than the expected; nil where all are right or absent.
local function wrong_type(keys, types)
  for i = 1, #types do
    local found = redis.call('TYPE', keys[i]).ok
    if found ~= 'none' and found ~= types[i] then
      return redis.error_reply('WRONGTYPE ' .. keys[i] .. ' holds a ' .. found .. ' where a ' .. types[i]
        .. ' is expected; riskstream repair puts it aside')
    end
  end
  return nil
end
