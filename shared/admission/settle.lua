-- Settle one call, once: its reservation becomes spending and its slots become free. Or, in mode `estimate`, book a
-- reservation that nobody settled.
--
-- KEYS[1] reservations, KEYS[2] reservation records, KEYS[3] estimate tombstone, KEYS[4] done marker, then per cell:
--   t: the rate cell; c: the concurrency cell; b: the budget cell and its unconfirmed hash
-- ARGV[1] now in µs since 2026-01-01 or ''  [2] event id  [3] boot of the admission  [4] mode: actual | estimate
--     [5] actual cost  [6] actual tokens  [7] the cells' kind, µs per token, burst, as one flat
--     array in msgpack
-- Returns {1, cost} settled; {0} it was already; {3, difference} an estimate was corrected; {4} booked without a record
-- A budget cell of an older life than the call's is not yet rebuilt, like a missing one: what it gets now would be lost, so
-- the cost waits in the unconfirmed hash. A cell of a newer life was rebuilt while the call had no reservation in it.
-- Invariant: an event id changes `spent` of a cell once as actual, or once as estimate and then at most once by the difference.
local EPOCH_S = 1767225600
local now_us = tonumber(ARGV[1])
if not now_us then
  local t = redis.call('TIME')
  now_us = (tonumber(t[1]) - EPOCH_S) * 1000000 + tonumber(t[2])
end
local function born(of) return tonumber(string.match(of or '', '^%d+')) or -1 end
local id, boot, estimate = ARGV[2], ARGV[3], ARGV[4] == 'estimate'
local cost, tokens = ARGV[5], tonumber(ARGV[6])
local record = redis.call('HGET', KEYS[2], id)
local reserved, rate_tokens
if record then
  local of_boot, a, b = string.match(record, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n')
  boot, reserved, rate_tokens = of_boot, a, tonumber(b)
  if estimate then
    cost = reserved
    redis.call('SET', KEYS[3], cost, 'EX', 86400)
  end
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
elseif estimate then
  return {0}
end

local booked_estimate = (not record) and redis.call('GET', KEYS[3])
local first = record or booked_estimate
local result = record and 1 or 0
local spec, k = cmsgpack.unpack(ARGV[7]), 5
local charged = record and not estimate
local tats, t = {}, 0
if charged then
  local rated, at = {}, 5
  for i = 1, #spec, 3 do
    if spec[i] == 't' then rated[#rated + 1] = KEYS[at] end
    at = at + (spec[i] == 'b' and 2 or 1)
  end
  if #rated > 0 then tats = redis.call('MGET', unpack(rated)) end
end
for i = 1, #spec, 3 do
  local kind, key = spec[i], KEYS[k]
  if kind == 't' then
    if charged then
      t = t + 1
      local per, span = spec[i + 1], spec[i + 1] * spec[i + 2]
      local tat = tonumber(tats[t] or now_us)
      if tat < now_us then tat = now_us end -- an empty cell is empty, whether Redis has dropped it yet or not
      tat = tat + (tokens - rate_tokens) * per
      if tat > now_us + span + 1000000 then tat = now_us + span + 1000000 end
      if tat <= now_us then redis.call('DEL', key)
      else redis.call('SET', key, tat, 'PX', math.ceil((tat - now_us) / 1000) + 1000) end
    end
    k = k + 1
  elseif kind == 'c' then
    redis.call('ZREM', key, id)
    k = k + 1
  else
    local of_cell = redis.call('HGET', key, 'boot')
    local unseeded = not of_cell or born(of_cell) < born(boot)
    if record then
      if of_cell == boot then
        if reserved ~= '0' then redis.call('HINCRBY', key, 'reserved', '-' .. reserved) end
        redis.call('HINCRBY', key, 'spent', cost)
      elseif unseeded then
        redis.call('HSETNX', KEYS[k + 1], id, cost)
        redis.call('EXPIRE', KEYS[k + 1], 3456000)
      else
        redis.call('HINCRBY', key, 'spent', cost)
      end
    elseif booked_estimate then
      if not unseeded then
        redis.call('HINCRBY', key, 'spent', string.format('%.0f', tonumber(cost) - tonumber(booked_estimate) + 0))
      else
        redis.call('HSETNX', KEYS[k + 1], id, cost)
        redis.call('EXPIRE', KEYS[k + 1], 3456000)
      end
      result = 3
    elseif unseeded then
      if redis.call('HSETNX', KEYS[k + 1], id, cost) == 1 then result = 4 end
      redis.call('EXPIRE', KEYS[k + 1], 3456000)
    elseif of_cell ~= boot then
      if not first then first = redis.call('SET', KEYS[4], '1', 'NX', 'EX', 3600) and 'new' or 'again' end
      if first == 'new' then
        redis.call('HINCRBY', key, 'spent', cost)
        result = 4
      end
    end
    k = k + 2
  end
end
if booked_estimate then redis.call('DEL', KEYS[3]) end
return {result, cost}
