-- Admit calls of one organisation, one after another: every limit and budget of organisation, team and key, all or nothing for
-- each. Those of one write come together, so what they share is read once and written once, and each sees the ones before it.
--
-- KEYS[1] reservations (ZSET), KEYS[2] reservation records (HASH), KEYS[3..] the cells, each once
-- ARGV[1] now in µs since 2026-01-01, for tests only; '' in production: Redis' own clock
--     [2] boot  [3] lease in ms
--     [4] for each group of calls, which share all cells: where its cells stand in KEYS; in msgpack (numbers that are read in C)
--     [5] eight numbers of each call, as one flat array in msgpack: its group, fixed cost, full cost, price of a million output
--         tokens, output cap per choice (-1 unknown), choices, least output cap worth a clamp, tokens for rate cells
--     then of each group: the cells that a settlement touches, as JSON, for the records; kind, a, b of its cells, as one flat
--     array in msgpack: rates of requests, of tokens, concurrency, budgets
--       r, t  request and token rate:  a = µs per unit, b = burst     (GCRA; capitals R, T, C: shadow, counted, never refusing)
--       c     concurrency:             a = most at once, b = false
--       b     hard budget, B soft:     a = limit in nano-USD, b = false
--     then of each call: event id and estimated event
-- Returns for each call
--      {1, reserved, output cap, soft cells unseeded, then for requests and for tokens: which cell of its group is the rate that is
--       nearest to its end (0: there is none), remaining, reset_ms}
--   or {0, cell of its group, retry_ms (-1: never), wanted, remaining}  nothing was changed
--   or {2, cell of its group}                                           a hard budget's cell is unseeded; nothing was changed
-- Invariants: spent + reserved <= limit for every hard budget; a refusal changes nothing.
local EPOCH_S = 1767225600
local now_us = tonumber(ARGV[1])
if not now_us then
  local t = redis.call('TIME')
  now_us = (tonumber(t[1]) - EPOCH_S) * 1000000 + tonumber(t[2])
end
local KEYS, ARGV, unpack, format, floor, ceil, max = KEYS, ARGV, unpack, string.format, math.floor, math.ceil, math.max
local now_ms = floor(now_us / 1000) + EPOCH_S * 1000
local boot, until_ms = ARGV[2], now_ms + tonumber(ARGV[3])
local places, numbers = cmsgpack.unpack(ARGV[4]), cmsgpack.unpack(ARGV[5])

local groups, at = {}, 6
for g = 1, #places do
  groups[g] = {places[g], cmsgpack.unpack(ARGV[at + 1]), ARGV[at] .. '\n'}
  at = at + 2
end
local first_call = at

-- Of each cell, by its place in KEYS: a rate's TAT, how many slots are taken, or of a seeded budget what is gone.
local holds = {}
local tats = #KEYS > 2 and redis.call('MGET', unpack(KEYS, 3)) -- false for the other kinds
local rates, slots, budgets = {}, {}, {} -- the places of each kind that somebody was admitted to
local leases, reserved_of, purged = {}, {}, {}
local records, all_leases, news = {}, {}, {}

local function seeded(i)
  local gone = holds[i]
  if gone == nil then
    local cell = redis.call('HMGET', KEYS[i], 'boot', 'spent', 'reserved')
    gone = cell[1] == boot and tonumber(cell[2]) + tonumber(cell[3])
    holds[i] = gone
  end
  return gone
end

local function admit(n)
  local number, fixed, full, price, cap, choices, least, tokens = unpack(numbers, 8 * n - 7, 8 * n)
  local group = groups[number]
  local at, spec = group[1], group[2]
  local no_cell, no_retry, no_wanted, no_remaining = 0, 0, 0, 0
  local near_r, left_r, new_r, near_t, left_t, new_t = 0, 0, now_us, 0, 0, now_us -- the rates that are nearest to their ends
  local left, left_cell, soft_unseeded = nil, 0, 0
  for k = 1, #at do
    local i, kind, a, b = at[k], spec[3 * k - 2], spec[3 * k - 1], spec[3 * k]
    if b then
      local of_requests = kind == 'r' or kind == 'R'
      local cost, span, tat = of_requests and 1 or tokens, b * a, holds[i] or tonumber(tats[i - 2] or 0)
      if tat > now_us + span + 1000000 then tat = now_us + span + 1000000 end
      if tat < now_us then tat = now_us end
      local new = tat + cost * a
      local over = new - now_us - span
      if (cost > b or over > 0.5) and (kind == 'r' or kind == 't') then
        local retry = cost > b and -1 or ceil(over / 1000)
        if no_cell == 0 or (no_retry ~= -1 and (retry == -1 or retry > no_retry)) then
          no_cell, no_retry, no_wanted = k, retry, cost
          no_remaining = max(0, floor((span - (tat - now_us)) / a))
        end
      end
      news[i] = new
      local units = (span - (new - now_us)) / a
      if of_requests then
        if near_r == 0 or units < left_r then near_r, left_r, new_r = k, units, new end
      elseif near_t == 0 or units < left_t then near_t, left_t, new_t = k, units, new end
    elseif kind == 'c' or kind == 'C' then
      local taken = holds[i] or redis.call('ZCARD', KEYS[i])
      if taken >= a then
        if not purged[i] then -- only now does it matter whose lease is over
          purged[i] = redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now_ms)
          taken = taken - purged[i]
        end
        if taken >= a and kind == 'c' and no_cell == 0 then
          no_cell, no_retry, no_wanted, no_remaining = k, 1000, 1, 0
        end
      end
      holds[i] = taken
    else
      local gone = seeded(i)
      if kind == 'B' then
        if not gone then soft_unseeded = soft_unseeded + 1 end
      elseif not gone then return {2, k}
      elseif not left or a - gone < left then left, left_cell = a - gone, k end
    end
  end

  local reserved = full
  if left and full > left then
    reserved = nil
    if cap >= 0 and price > 0 and left > fixed then
      local each = floor(floor((left - fixed) * 1000000 / price) / choices)
      if each > cap then each = cap end
      local cost = fixed + floor(each * choices * price / 1000000) + 1
      while each > 0 and cost > left do
        each = each - 1
        cost = fixed + floor(each * choices * price / 1000000) + 1
      end
      if each >= least then reserved, cap = cost, each end
    end
    if not reserved then return {0, left_cell, -1, full, max(0, left)} end
  end
  if no_cell > 0 then return {0, no_cell, no_retry, no_wanted, no_remaining} end

  local place = first_call + 2 * (n - 1)
  local id = ARGV[place]
  for k = 1, #at do
    local i, kind = at[k], spec[3 * k - 2]
    if spec[3 * k] then
      if not holds[i] then rates[#rates + 1] = i end
      holds[i] = news[i]
    elseif kind == 'c' or kind == 'C' then
      local of = leases[i]
      if not of then
        of, slots[#slots + 1] = {}, i
        leases[i] = of
      end
      holds[i], of[#of + 1], of[#of + 2] = holds[i] + 1, until_ms, id
    elseif holds[i] then
      if not reserved_of[i] then reserved_of[i], budgets[#budgets + 1] = 0, i end
      holds[i], reserved_of[i] = holds[i] + reserved, reserved_of[i] + reserved
    end
  end
  all_leases[#all_leases + 1], all_leases[#all_leases + 2] = until_ms, id
  records[#records + 1] = id
  records[#records + 1] = format('%s\n%.0f\n%.0f\n', boot, reserved, tokens) .. group[3] .. ARGV[place + 1]
  return {
    1, reserved, cap, soft_unseeded,
    near_r, max(0, floor(left_r + 0.000001)), ceil((new_r - now_us) / 1000),
    near_t, max(0, floor(left_t + 0.000001)), ceil((new_t - now_us) / 1000),
  }
end

local replies = {}
for n = 1, #numbers / 8 do replies[n] = admit(n) end
if #records == 0 then return replies end
for k = 1, #rates do -- Redis writes a number so that it reads the same again
  local i = rates[k]
  redis.call('SET', KEYS[i], holds[i], 'PX', max(0, ceil((holds[i] - now_us) / 1000)) + 1000)
end
for k = 1, #slots do
  redis.call('ZADD', KEYS[slots[k]], unpack(leases[slots[k]]))
  redis.call('PEXPIRE', KEYS[slots[k]], tonumber(ARGV[3]) * 2)
end
for k = 1, #budgets do
  redis.call('HINCRBY', KEYS[budgets[k]], 'reserved', format('%.0f', reserved_of[budgets[k]]))
end
redis.call('ZADD', KEYS[1], unpack(all_leases))
redis.call('HSET', KEYS[2], unpack(records))
return replies
