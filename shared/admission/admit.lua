-- Admit one call: every limit and budget of organisation, team and key, all or nothing.
--
-- KEYS[1] reservations (ZSET), KEYS[2] reservation records (HASH), KEYS[3..] one per cell, in the order of ARGV's cells.
-- ARGV[1] now in µs since 2026-01-01, for tests only; '' in production: Redis' own clock
--     [2] event id  [3] boot  [4] lease in ms  [5] fixed cost  [6] full cost  [7] price of a million output tokens
--     [8] output cap per choice, -1 unknown  [9] choices  [10] least output cap worth a clamp  [11] tokens for rate cells
--     [12] cells JSON  [13] estimated event  [14] the cells' kind, a, b, as one flat array in msgpack: numbers that are read in C
--       r, t  request and token rate:  a = µs per unit, b = burst     (GCRA; capitals R, T, C: shadow, counted, never refusing)
--       c     concurrency:             a = most at once, b = false
--       b     hard budget, B soft:     a = limit in nano-USD, b = false
-- Returns {1, reserved, output cap, soft cells unseeded, then per r/t cell: remaining, reset_ms, refused in shadow}
--      or {0, cell number, retry_ms (-1: never), wanted, remaining}       nothing was changed
--      or {2, cell number}                                                 a hard budget's cell is unseeded; nothing was changed
-- Invariants: spent + reserved <= limit for every hard budget; a refusal changes nothing.
local EPOCH_S = 1767225600
local now_us = tonumber(ARGV[1])
if not now_us then
  local t = redis.call('TIME')
  now_us = (tonumber(t[1]) - EPOCH_S) * 1000000 + tonumber(t[2])
end
local now_ms = math.floor(now_us / 1000) + EPOCH_S * 1000
local id, boot, lease_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
local fixed, full, price = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local cap, choices, least, tokens = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local cells, spec = #KEYS - 2, cmsgpack.unpack(ARGV[14])
local tats = cells > 0 and redis.call('MGET', unpack(KEYS, 3)) or {} -- rate cells' values; false for the other kinds

local news, left, left_cell, soft_unseeded = {}, nil, 0, 0
local no_cell, no_retry, no_wanted, no_remaining = 0, 0, 0, 0
local reply = {1, 0, 0, 0}

for i = 1, cells do
  local key, kind, a, b = KEYS[i + 2], spec[3 * i - 2], spec[3 * i - 1], spec[3 * i]
  local enforced = kind == 'r' or kind == 't' or kind == 'c' or kind == 'b'
  if b then
    local cost = (kind == 'r' or kind == 'R') and 1 or tokens
    local span = b * a
    local tat = tonumber(tats[i] or 0)
    if tat > now_us + span + 1000000 then tat = now_us + span + 1000000 end
    if tat < now_us then tat = now_us end
    local new = tat + cost * a
    local over = new - now_us - span
    local refused = 0
    if cost > b or over > 0.5 then
      local retry = cost > b and -1 or math.ceil(over / 1000)
      if enforced and (no_cell == 0 or (no_retry ~= -1 and (retry == -1 or retry > no_retry))) then
        no_cell, no_retry, no_wanted = i, retry, cost
        no_remaining = math.max(0, math.floor((span - (tat - now_us)) / a))
      end
      refused = 1
    end
    news[i] = new
    reply[#reply + 1] = math.max(0, math.floor((span - (new - now_us)) / a + 0.000001))
    reply[#reply + 1] = math.ceil((new - now_us) / 1000)
    reply[#reply + 1] = refused
  elseif kind == 'c' or kind == 'C' then
    if redis.call('ZCARD', key) >= a then -- only then does it matter whose lease is over
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
      if redis.call('ZCARD', key) >= a and enforced and no_cell == 0 then
        no_cell, no_retry, no_wanted, no_remaining = i, 1000, 1, 0
      end
    end
  else
    local cell = redis.call('HMGET', key, 'boot', 'spent', 'reserved')
    if cell[1] ~= boot then
      if enforced then return {2, i} end
      soft_unseeded = soft_unseeded + 1
    else
      news[i] = 1
      if enforced then
        local here = a - tonumber(cell[2]) - tonumber(cell[3])
        if left == nil or here < left then left, left_cell = here, i end
      end
    end
  end
end

local reserved = full
if left ~= nil and full > left then
  reserved = nil
  if cap >= 0 and price > 0 and left > fixed then
    local each = math.floor(math.floor((left - fixed) * 1000000 / price) / choices)
    if each > cap then each = cap end
    local cost = fixed + math.floor(each * choices * price / 1000000) + 1
    while each > 0 and cost > left do
      each = each - 1
      cost = fixed + math.floor(each * choices * price / 1000000) + 1
    end
    if each >= least then reserved, cap = cost, each end
  end
  if reserved == nil then return {0, left_cell, -1, full, math.max(0, left)} end
end
if no_cell > 0 then return {0, no_cell, no_retry, no_wanted, no_remaining} end

local held = reserved == full and ARGV[6] or string.format('%.0f', reserved)
for i = 1, cells do
  local key, kind = KEYS[i + 2], spec[3 * i - 2]
  if spec[3 * i] then -- Redis writes a number so that it reads the same again
    redis.call('SET', key, news[i], 'PX', math.max(0, math.ceil((news[i] - now_us) / 1000)) + 1000)
  elseif kind == 'c' or kind == 'C' then
    redis.call('ZADD', key, now_ms + lease_ms, id)
    redis.call('PEXPIRE', key, lease_ms * 2)
  elseif news[i] then
    redis.call('HINCRBY', key, 'reserved', held)
  end
end
redis.call('ZADD', KEYS[1], now_ms + lease_ms, id)
redis.call('HSET', KEYS[2], id, boot .. '\n' .. held .. '\n' .. ARGV[11] .. '\n' .. ARGV[12] .. '\n' .. ARGV[13])
reply[2], reply[3], reply[4] = reserved, cap, soft_unseeded
return reply
