-- Settle calls of one organisation, each once: its reservation becomes spending and its slots become free. Or, in mode
-- `estimate`, book reservations that nobody settled. Those of one write come together: what they share is read and written once.
--
-- KEYS[1] reservations, KEYS[2] reservation records, KEYS[3..] the cells and budget cells' unconfirmed hashes, each once; then per
--     call: estimate tombstone and done marker
-- ARGV[1] now in µs since 2026-01-01 or ''  [2] mode: actual | estimate
--     [3] for each group of calls, which share all cells: where those stand in KEYS, a budget cell's followed by its unconfirmed
--     hash's; in msgpack  [4] the group of each call, in msgpack
--     then of each group: its cells' kind, µs per token, burst, as one flat array in msgpack
--     then of each call: event id, boot of the admission, actual cost, actual tokens
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
local KEYS, ARGV, unpack, format, match = KEYS, ARGV, unpack, string.format, string.match
local estimate, places, group_of = ARGV[2] == 'estimate', cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])
local calls, specs = #group_of, {}
for g = 1, #places do specs[g] = cmsgpack.unpack(ARGV[4 + g]) end
local first_call, first_marker = 5 + #places, #KEYS - 2 * calls + 1

local ids = {}
for n = 1, calls do ids[n] = ARGV[first_call + 4 * (n - 1)] end
local records = redis.call('HMGET', KEYS[2], unpack(ids))

-- By place in KEYS: a rate's TAT once it is needed, who leaves a concurrency cell, a budget cell's boot and what changes in it.
local tats, leavers, boots, spent, freed = {}, {}, {}, {}, {}
local rates, slots, budgets, gone = {}, {}, {}, {}

local function correct(i, per, burst, units)
  local tat = tats[i]
  if not tat then
    tat = tonumber(redis.call('GET', KEYS[i]) or now_us)
    rates[#rates + 1] = i
  end
  if tat < now_us then tat = now_us end -- an empty cell is empty, whether Redis has dropped it yet or not
  tat = tat + units * per
  local most = now_us + per * burst + 1000000
  tats[i] = tat > most and most or tat
end

local function leave(i, id)
  local of = leavers[i]
  if not of then
    of, slots[#slots + 1] = {}, i
    leavers[i] = of
  end
  of[#of + 1] = id
end

local function boot_of(i)
  if boots[i] == nil then
    boots[i], spent[i], freed[i], budgets[#budgets + 1] = redis.call('HGET', KEYS[i], 'boot'), 0, 0, i
  end
  return boots[i]
end

local function wait_for_ledger(i, id, cost)
  local new = redis.call('HSETNX', KEYS[i], id, cost)
  redis.call('EXPIRE', KEYS[i], KEEP_S)
  return new == 1
end

local function settle(n, record)
  local place, marker = first_call + 4 * (n - 1), first_marker + 2 * (n - 1)
  local id, boot, cost, units = ids[n], ARGV[place + 1], ARGV[place + 2], nil
  local reserved, rate_tokens, estimated, marked
  if record then
    boot, reserved, rate_tokens = match(record, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n')
    gone[#gone + 1] = id
    if estimate then
      cost = reserved
      redis.call('SET', KEYS[marker], cost, 'EX', 86400)
    else
      units = tonumber(ARGV[place + 3]) - tonumber(rate_tokens)
    end
  elseif estimate then
    return 0
  else
    estimated = redis.call('GET', KEYS[marker])
  end
  local result, at, spec, k = record and 1 or 0, places[group_of[n]], specs[group_of[n]], 1
  for m = 1, #spec, 3 do
    local kind, i = spec[m], at[k]
    if kind == 't' then
      if units then correct(i, spec[m + 1], spec[m + 2], units) end
    elseif kind == 'c' then leave(i, id)
    else
      k = k + 1
      local of_cell = boot_of(i)
      local unseeded = of_cell ~= boot and (not of_cell or born(of_cell) < born(boot))
      if record then
        if unseeded then wait_for_ledger(at[k], id, cost)
        else
          spent[i] = spent[i] + tonumber(cost)
          if of_cell == boot then freed[i] = freed[i] + tonumber(reserved) end
        end
      elseif estimated then
        if unseeded then wait_for_ledger(at[k], id, cost)
        else spent[i] = spent[i] + tonumber(cost) - tonumber(estimated) end
        result = 3
      elseif unseeded then
        if wait_for_ledger(at[k], id, cost) then result = 4 end
      elseif of_cell ~= boot then
        if marked == nil then marked = redis.call('SET', KEYS[marker + 1], '1', 'NX', 'EX', 3600) and true end
        if marked then spent[i], result = spent[i] + tonumber(cost), 4 end
      end
    end
    k = k + 1
  end
  if estimated then redis.call('DEL', KEYS[marker]) end
  return result
end

local results, seen = {}, {}
for n = 1, calls do
  results[n] = settle(n, not seen[ids[n]] and records[n])
  seen[ids[n]] = true
end

if #gone > 0 then
  redis.call('HDEL', KEYS[2], unpack(gone))
  redis.call('ZREM', KEYS[1], unpack(gone))
end
for k = 1, #rates do
  local key, tat = KEYS[rates[k]], tats[rates[k]]
  if tat <= now_us then redis.call('DEL', key)
  else redis.call('SET', key, tat, 'PX', math.ceil((tat - now_us) / 1000) + 1000) end
end
for k = 1, #slots do redis.call('ZREM', KEYS[slots[k]], unpack(leavers[slots[k]])) end
for k = 1, #budgets do
  local i = budgets[k]
  if freed[i] ~= 0 then redis.call('HINCRBY', KEYS[i], 'reserved', format('%.0f', -freed[i])) end
  if spent[i] ~= 0 then redis.call('HINCRBY', KEYS[i], 'spent', format('%.0f', spent[i])) end
end
return results
