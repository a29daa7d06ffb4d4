-- Admit calls of one key, one after another: every limit and budget of organisation, team and key, all or nothing for each.
-- Those of one write come together, so what they share is read once and written once, and each sees the ones before it.
--
-- KEYS[1] reservations (ZSET), KEYS[2] reservation records (HASH), KEYS[3..] one per cell, in the order of the cells
-- ARGV[1] now in µs since 2026-01-01, for tests only; '' in production: Redis' own clock
--     [2] boot  [3] lease in ms  [4] the cells that a settlement touches, as JSON, for the records
--     [5] the cells' kind, a, b, as one flat array in msgpack (numbers that are read in C): rates, concurrency, budgets
--       r, t  request and token rate:  a = µs per unit, b = burst     (GCRA; capitals R, T, C: shadow, counted, never refusing)
--       c     concurrency:             a = most at once, b = false
--       b     hard budget, B soft:     a = limit in nano-USD, b = false
--     [6] seven numbers of each call, as one flat array in msgpack: fixed cost, full cost, price of a million output tokens,
--         output cap per choice (-1 unknown), choices, least output cap worth a clamp, tokens for rate cells
--     [7..] event id and estimated event of each call
-- Returns for each call
--      {1, reserved, output cap, soft cells unseeded, then for requests and for tokens: the rate cell that is nearest to its end
--       (0: there is none), remaining, reset_ms}
--   or {0, cell number, retry_ms (-1: never), wanted, remaining}       nothing was changed
--   or {2, cell number}                                                 a hard budget's cell is unseeded; nothing was changed
-- Invariants: spent + reserved <= limit for every hard budget; a refusal changes nothing.
local EPOCH_S = 1767225600
local now_us = tonumber(ARGV[1])
if not now_us then
  local t = redis.call('TIME')
  now_us = (tonumber(t[1]) - EPOCH_S) * 1000000 + tonumber(t[2])
end
local KEYS, ARGV, unpack, format, floor, ceil, max = KEYS, ARGV, unpack, string.format, math.floor, math.ceil, math.max
local now_ms = floor(now_us / 1000) + EPOCH_S * 1000
local boot, until_ms, spec, numbers = ARGV[2], now_ms + tonumber(ARGV[3]), cmsgpack.unpack(ARGV[5]), cmsgpack.unpack(ARGV[6])

-- The cells, kind by kind: requests end at `requests`, tokens at `rated`, concurrency at `slotted`.
local cells, requests, rated, slotted = #KEYS - 2, 0, 0, 0
local enforced, per, burst, span, most = {}, {}, {}, {}, {}
local holds = {} -- a rate's TAT, how many slots are taken, what is left of a hard budget
local purged, hard, charged, unseeded, soft_unseeded = {}, {}, {}, 0, 0
for i = 1, cells do
  local key, kind, a, b = KEYS[i + 2], spec[3 * i - 2], spec[3 * i - 1], spec[3 * i]
  enforced[i] = kind == 'r' or kind == 't' or kind == 'c'
  if b then
    rated, slotted, per[i], burst[i], span[i] = i, i, a, b, b * a
    if kind == 'r' or kind == 'R' then requests = i end
  elseif kind == 'c' or kind == 'C' then slotted, most[i], holds[i] = i, a, redis.call('ZCARD', key)
  else
    local cell = redis.call('HMGET', key, 'boot', 'spent', 'reserved')
    if cell[1] == boot then
      charged[#charged + 1] = key
      if kind == 'b' then hard[#hard + 1], holds[i] = i, a - tonumber(cell[2]) - tonumber(cell[3]) end
    elseif kind == 'B' then soft_unseeded = soft_unseeded + 1
    elseif unseeded == 0 then unseeded = i end
  end
end
local tats = rated > 0 and redis.call('MGET', unpack(KEYS, 3, 2 + rated))
for i = 1, rated do holds[i] = tonumber(tats[i] or 0) end

local admitted, total, leases, records, news = 0, 0, {}, {}, {}
local no_cell, no_retry, no_wanted, no_remaining -- of the call at hand: who refuses it

-- What `cost` does to the rate cells `from`..`to`: of them the one that is nearest to its end, remaining, reset_ms.
local function advance(from, to, cost)
  local near, near_left, near_new = 0, 0, now_us
  for i = from, to do
    local a, range, tat = per[i], span[i], holds[i]
    if tat > now_us + range + 1000000 then tat = now_us + range + 1000000 end
    if tat < now_us then tat = now_us end
    local new = tat + cost * a
    local over = new - now_us - range
    if (cost > burst[i] or over > 0.5) and enforced[i] then
      local retry = cost > burst[i] and -1 or ceil(over / 1000)
      if no_cell == 0 or (no_retry ~= -1 and (retry == -1 or retry > no_retry)) then
        no_cell, no_retry, no_wanted = i, retry, cost
        no_remaining = max(0, floor((range - (tat - now_us)) / a))
      end
    end
    news[i] = new
    local left = (range - (new - now_us)) / a
    if near == 0 or left < near_left then near, near_left, near_new = i, left, new end
  end
  return near, max(0, floor(near_left + 0.000001)), ceil((near_new - now_us) / 1000)
end

local function admit(n)
  local fixed, full, price, cap, choices, least, tokens = unpack(numbers, 7 * n - 6, 7 * n)
  no_cell, no_retry, no_wanted, no_remaining = 0, 0, 0, 0
  local of_requests, requests_left, requests_reset = advance(1, requests, 1)
  local of_tokens, tokens_left, tokens_reset = advance(requests + 1, rated, tokens)
  for i = rated + 1, slotted do
    if holds[i] + admitted >= most[i] then
      if not purged[i] then -- only now does it matter whose lease is over
        purged[i] = redis.call('ZREMRANGEBYSCORE', KEYS[i + 2], '-inf', now_ms)
        holds[i] = holds[i] - purged[i]
      end
      if holds[i] + admitted >= most[i] and enforced[i] and no_cell == 0 then
        no_cell, no_retry, no_wanted, no_remaining = i, 1000, 1, 0
      end
    end
  end
  if unseeded > 0 then return {2, unseeded} end

  local left, left_cell
  for k = 1, #hard do
    local i = hard[k]
    if not left or holds[i] < left then left, left_cell = holds[i], i end
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

  for i = 1, rated do holds[i] = news[i] end
  for k = 1, #hard do holds[hard[k]] = holds[hard[k]] - reserved end
  local id, at = ARGV[5 + 2 * n], 2 * admitted
  leases[at + 1], leases[at + 2] = until_ms, id
  records[at + 1] = id
  records[at + 2] = format('%s\n%.0f\n%.0f\n', boot, reserved, tokens) .. ARGV[4] .. '\n' .. ARGV[6 + 2 * n]
  admitted, total = admitted + 1, total + reserved
  return {
    1, reserved, cap, soft_unseeded, of_requests, requests_left, requests_reset, of_tokens, tokens_left, tokens_reset,
  }
end

local replies = {}
for n = 1, (#ARGV - 6) / 2 do replies[n] = admit(n) end
if admitted == 0 then return replies end
for i = 1, rated do -- Redis writes a number so that it reads the same again
  redis.call('SET', KEYS[i + 2], holds[i], 'PX', max(0, ceil((holds[i] - now_us) / 1000)) + 1000)
end
for i = rated + 1, slotted do
  redis.call('ZADD', KEYS[i + 2], unpack(leases))
  redis.call('PEXPIRE', KEYS[i + 2], tonumber(ARGV[3]) * 2)
end
for _, key in ipairs(charged) do redis.call('HINCRBY', key, 'reserved', format('%.0f', total)) end
redis.call('ZADD', KEYS[1], unpack(leases))
redis.call('HSET', KEYS[2], unpack(records))
return replies
