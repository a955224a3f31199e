-- Admits a batch to the capped stream, in order, as far as there is room. May be repeated: what was admitted
-- before is passed over. Never trims, never goes beyond maxlen. Everything is checked before the first write.
--
-- KEYS  snapshots, latest, epochs, admitted, counters, floors, behind, partitioning
-- ARGV  1: JSON of {maxlen, accept_behind, and in columns, of each incarnation, 1, 2, ...: traders = {id...},
--          epochs = {text...}, fields = {"epoch:id"...}; and of each entry: incarnation_of = {its number...},
--          seqs, merged}; accept_behind may be left out, and merged where all are 0; replicated = true: WAIT
--          follows, so there is a write even where all was admitted before; partitioning = as the producer knows it,
--          which may be left out
--       2...: the payloads, by entry
-- Returns JSON of {count = how many entries, from the first on, are admitted now or passed over; fenced = the numbers
-- of the incarnations for which a newer epoch was given out (their history goes on, their state is the newer one's);
-- skipped = of each incarnation of which no entry was admitted {incarnation = its number, why, ...}: why = "behind",
-- admitted = the last seq as a text, floor, where Postgres knows a newer epoch that this Redis had lost; or why =
-- "unreadable", hash = its name, value}; partitioning = this partition's copy, where it is another than the producer
-- knows; unread = the error, where this user may not read the copy}. What is empty is missing.
local snapshots, latest, epochs, admitted, counters, floors, behind, partitioning =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local PAYLOADS = 1
local QUICK = 'A text of more than 64 bytes: with it Redis finds a field by its hash, without it by trying all'
local batch = cjson.decode(ARGV[1])
local ids, own, fields, seqs, merged = batch.traders, batch.epochs, batch.fields, batch.seqs, batch.merged
local incarnation_of = batch.incarnation_of
local length = redis.pcall('XLEN', snapshots)
local done = redis.pcall('HMGET', admitted, unpack(fields))
local known = redis.pcall('HMGET', epochs, unpack(ids))
local kind = redis.call('TYPE', latest).ok
if type(length) == 'table' or done.err or known.err or (kind ~= 'hash' and kind ~= 'none') then
  return wrong_type(KEYS, { 'stream', 'hash', 'hash', 'hash' })
end
local room = batch.maxlen - length

local fenced, skipped, new_epochs, new_behind, is_fenced = {}, {}, {}, {}, {}
for i = 1, #ids do
  local last, unreadable, below = number(done[i]), nil, nil
  if not last then unreadable = { 'admitted', done[i] } end
  if known[i] ~= own[i] and not unreadable then
    local newest, mine, text = number(known[i]), number(own[i]), redis.pcall('HGET', floors, ids[i])
    if type(text) == 'table' then return wrong_type({ floors }, { 'hash' }) end
    local floor = number(text)
    if not newest then
      unreadable = { 'epochs', known[i] }
    elseif not floor then
      unreadable = { 'floors', text }
    elseif not mine then
      unreadable = { 'epochs', own[i] }
    elseif mine >= newest and mine >= floor then
      new_epochs[#new_epochs + 1], new_epochs[#new_epochs + 2] = ids[i], own[i] -- Redis has lost its data
    elseif newest > floor or redis.call('HEXISTS', admitted, text .. ':' .. ids[i]) == 1 then
      fenced[#fenced + 1], is_fenced[i] = i, true
    elseif batch.accept_behind then
      fenced[#fenced + 1], is_fenced[i] = i, true
      -- History is newer than the state then, until a greater epoch has sent something.
      new_behind[#new_behind + 1], new_behind[#new_behind + 2] = ids[i], string.format('%.0f', floor + 1)
    else
      below = text
    end
  end
  if unreadable then
    skipped[#skipped + 1] =
      { incarnation = i, why = 'unreadable', hash = unreadable[1], value = shown(unreadable[2]) }
    last = math.huge
  elseif below then
    skipped[#skipped + 1] =
      { incarnation = i, why = 'behind', admitted = string.format('%.0f', last), floor = below }
    last = math.huge
  end
  done[i] = last
end

-- Whether the hash holds that more was admitted than the newest state shows: then what is passed over would be lost.
-- Not of a fenced incarnation: it leaves the state to the newer one, which may not have sent anything yet.
local function is_ahead(i)
  local payload = redis.call('HGET', latest, ids[i])
  local readable, state = pcall(cjson.decode, payload or '')
  return readable and type(state) == 'table' and state.trader_id == ids[i]
    and state.epoch == tonumber(own[i]) and type(state.seq) == 'number' and state.seq < done[i]
end

local call = redis.call -- a local is quicker, and this is the part that is paid for each entry
local count, added, conflated, newest, repeated = 0, 0, 0, {}, {}
for at = 1, #seqs do
  local i, seq = incarnation_of[at], seqs[at]
  if seq > done[i] then
    if added >= room then break end
    call('XADD', snapshots, '*', 's', ARGV[PAYLOADS + at])
    added = added + 1
    if merged then conflated = conflated + merged[at] end
    done[i] = seq
    newest[i] = at
  elseif not repeated[i] then
    repeated[i] = true
    if done[i] < math.huge and not is_fenced[i] and is_ahead(i) then
      skipped[#skipped + 1] =
        { incarnation = i, why = 'unreadable', hash = 'admitted', value = string.format('%.0f', done[i]) }
      done[i] = math.huge
    end
  end
  count = count + 1
end

local new_done, new_latest = {}, {}
for i, at in pairs(newest) do
  new_done[#new_done + 1] = fields[i]
  new_done[#new_done + 1] = done[i]
  if not is_fenced[i] then
    new_latest[#new_latest + 1] = ids[i]
    new_latest[#new_latest + 1] = ARGV[PAYLOADS + at]
  end
end
if #new_behind > 0 then redis.pcall('HSET', behind, unpack(new_behind)) end
if #new_epochs > 0 then call('HSET', epochs, '', QUICK, unpack(new_epochs)) end
-- WAIT asks about the last write of its connection. A repeat over a new one that wrote nothing would be confirmed by
-- replicas that do not have what was admitted before.
if #new_done > 0 or batch.replicated then call('HSET', admitted, '', QUICK, unpack(new_done)) end
if #new_latest > 0 then call('HSET', latest, unpack(new_latest)) end

-- A counter that cannot be counted starts anew: it never hinders what it counts.
local function add(name, amount)
  if type(redis.pcall('HINCRBY', counters, name, amount)) == 'table' then
    redis.pcall('HSET', counters, name, amount)
    redis.pcall('HINCRBY', counters, 'unreadable', 1)
  end
end
if added > 0 then add('accepted', added + conflated) end
if conflated > 0 then add('conflated', conflated) end
local copy = batch.partitioning and redis.pcall('GET', partitioning) -- what is wrong with it hinders nothing
local refused = type(copy) == 'table' and tostring(copy.err) or 'WRONGTYPE' -- which a worker sets right
local differs = type(copy) == 'string' and copy ~= batch.partitioning and string.find(copy, '^[%d:,]+$')
return cjson.encode({
  partitioning = differs and copy or nil,
  unread = not string.find(refused, 'WRONGTYPE') and refused or nil,
  count = count,
  fenced = #fenced > 0 and fenced or nil,
  skipped = #skipped > 0 and skipped or nil,
})
