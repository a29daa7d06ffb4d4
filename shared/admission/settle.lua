-- Settle calls of one key, each once: its reservation becomes spending and its slots become free. Or, in mode `estimate`, book
-- reservations that nobody settled. Those of one write come together: what they share is read once and written once.
--
-- KEYS[1] reservations, KEYS[2] reservation records, then per cell: its key, and after a budget cell its unconfirmed hash; then
--     per call: estimate tombstone and done marker
-- ARGV[1] now in µs since 2026-01-01 or ''  [2] mode: actual | estimate
--     [3] the cells' kind, µs per token, burst, as one flat array in msgpack
--     [4..] of each call: event id, boot of the admission, actual cost, actual tokens
-- Returns for each call: 1 settled, 0 it was already, 3 an estimate was corrected, 4 booked without a record
-- A budget cell of an older life than the call's is not yet rebuilt, like a missing one: what it gets now would be lost, so
-- the cost waits in the unconfirmed hash. A cell of a newer life was rebuilt while the call had no reservation in it.
-- Invariant: an event id changes `spent` of a cell once as actual, or once as estimate and then at most once by the difference.
local EPOCH_S, KEEP_S = 1767225600, 3456000
local now_us = tonumber(ARGV[1])
if not now_us then
  local t = redis.call('TIME')
  now_us = (tonumber(t[1]) - EPOCH_S) * 1000000 + tonumber(t[2])
end
local function born(of) return tonumber(string.match(of or '', '^%d+')) or -1 end
local estimate, spec, calls = ARGV[2] == 'estimate', cmsgpack.unpack(ARGV[3]), (#ARGV - 3) / 4

local rates, rated, slots, budgets, at = {}, {}, {}, {}, 3
for i = 1, #spec, 3 do
  local kind, key = spec[i], KEYS[at]
  if kind == 't' then
    rated[#rated + 1] = key
    rates[#rates + 1] = {key = key, per = spec[i + 1], span = spec[i + 1] * spec[i + 2]}
  elseif kind == 'c' then slots[#slots + 1] = key
  else
    at = at + 1
    budgets[#budgets + 1] = {key = key, unconfirmed = KEYS[at], boot = redis.call('HGET', key, 'boot'), spent = 0, freed = 0}
  end
  at = at + 1
end

local ids, gone, ended, charged = {}, {}, {}, false
for n = 1, calls do ids[n] = ARGV[4 * n] end
local records = redis.call('HMGET', KEYS[2], unpack(ids))

local function wait_for_ledger(budget, id, cost)
  local new = redis.call('HSETNX', budget.unconfirmed, id, cost)
  redis.call('EXPIRE', budget.unconfirmed, KEEP_S)
  return new == 1
end

local function correct(units)
  if not charged then
    charged = true
    local tats = #rates > 0 and redis.call('MGET', unpack(rated))
    for i, rate in ipairs(rates) do rate.tat = tonumber(tats[i] or now_us) end
  end
  for _, rate in ipairs(rates) do
    if rate.tat < now_us then rate.tat = now_us end -- an empty cell is empty, whether Redis has dropped it yet or not
    rate.tat = rate.tat + units * rate.per
    if rate.tat > now_us + rate.span + 1000000 then rate.tat = now_us + rate.span + 1000000 end
  end
end

local function with_record(id, record, tombstone, cost, tokens)
  local boot, reserved, rate_tokens = string.match(record, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n')
  gone[#gone + 1] = id
  if estimate then
    cost = reserved
    redis.call('SET', tombstone, cost, 'EX', 86400)
  else
    correct(tokens - tonumber(rate_tokens))
  end
  for _, budget in ipairs(budgets) do
    if budget.boot == boot then
      budget.freed = budget.freed + tonumber(reserved)
      budget.spent = budget.spent + tonumber(cost)
    elseif not budget.boot or born(budget.boot) < born(boot) then wait_for_ledger(budget, id, cost)
    else budget.spent = budget.spent + tonumber(cost) end
  end
  return 1
end

local function without_record(id, boot, tombstone, done, cost)
  if estimate then return 0 end
  local estimated, result, first = redis.call('GET', tombstone), 0, nil
  for _, budget in ipairs(budgets) do
    local unseeded = not budget.boot or born(budget.boot) < born(boot)
    if estimated then
      if unseeded then wait_for_ledger(budget, id, cost)
      else budget.spent = budget.spent + tonumber(cost) - tonumber(estimated) end
      result = 3
    elseif unseeded then
      if wait_for_ledger(budget, id, cost) then result = 4 end
    elseif budget.boot ~= boot then
      if first == nil then first = redis.call('SET', done, '1', 'NX', 'EX', 3600) and true end
      if first then budget.spent, result = budget.spent + tonumber(cost), 4 end
    end
  end
  if estimated then redis.call('DEL', tombstone) end
  return result
end

local results, seen = {}, {}
for n = 1, calls do
  local id, boot, cost, tokens = unpack(ARGV, 4 * n, 4 * n + 3)
  local tombstone, done = KEYS[at], KEYS[at + 1]
  at = at + 2
  if records[n] and not seen[id] then results[n] = with_record(id, records[n], tombstone, cost, tonumber(tokens))
  else results[n] = without_record(id, boot, tombstone, done, cost) end
  seen[id] = true
  if not estimate or results[n] ~= 0 then ended[#ended + 1] = id end
end

if #gone > 0 then
  redis.call('HDEL', KEYS[2], unpack(gone))
  redis.call('ZREM', KEYS[1], unpack(gone))
end
if charged then
  for _, rate in ipairs(rates) do
    if rate.tat <= now_us then redis.call('DEL', rate.key)
    else redis.call('SET', rate.key, rate.tat, 'PX', math.ceil((rate.tat - now_us) / 1000) + 1000) end
  end
end
if #ended > 0 then
  for _, key in ipairs(slots) do redis.call('ZREM', key, unpack(ended)) end
end
for _, budget in ipairs(budgets) do
  if budget.freed ~= 0 then redis.call('HINCRBY', budget.key, 'reserved', string.format('%.0f', -budget.freed)) end
  if budget.spent ~= 0 then redis.call('HINCRBY', budget.key, 'spent', string.format('%.0f', budget.spent)) end
end
return results
