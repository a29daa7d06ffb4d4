-- The queue in front of one connection: who may call its provider now, and who next. One script for all that happens there.
--
-- KEYS[1] state (HASH), [2] leases (ZSET ticket → end in ms), [3] waiting (ZSET ticket → start tag), [4] tickets (HASH),
--     [5] deadlines (ZSET ticket → ms), [6] finish tags (ZSET organisation → tag), [7..] one per quota
-- ARGV[1] now in µs since 2026-01-01, for tests only; '' in production: Redis' own clock
--     [2] this node  [3] the connection  [4] µs per request, 0: no limit  [5] requests at once  [6] µs per token  [7] tokens at once
--     [8] gap in µs  [9] most at once, 0: no limit  [10] 1: adaptive  [11] most waiting  [12] lease in ms
--     [13] take | done | leave | look
--     [14] ticket  [15] organisation  [16] tokens  [17] nano-USD  [18] longest wait in µs                               take
--     [14] ticket  [15] ''  [16] tokens and [17] nano-USD more than were taken  [18] pause in µs  [19] era
--          [20] 1: it went well, -1: pushed back, 0: neither  [21] µs held  [22] 1: never used, give the request back   done
--     [14] ticket                                                                                                       leave
--     [23..] per quota: r, t or u (requests, tokens, nano-USD); limit; its end in µs, 0: rolling over five hours
-- Returns {code, x, retry_ms, next_us, mine, then per grant or eviction of this node: ticket, era (-1: evicted), retry_ms}
--     code 0: nothing to say; 1: granted, x the era; 2: waiting, x how many are ahead; 3: refused, x why:
--          1 rate, 2 tokens, 3 gap, 4 concurrency, 5 quota, 6 pause, 7 the queue is full
--     next_us: when the first in the queue may go; -1: the queue is empty; -2: when a slot is released. mine: it is this node's
-- Grants of other nodes are published on their channels: connection, ticket, era, retry_ms, next_us, line by line; an empty
-- ticket tells a node that the first in the queue is now its own. A grant that nobody hears is none: that node is dead.
--
-- Rates are GCRA. Tags are in µs of the connection's time. The queue's own time is the highest start tag that went; a ticket's
-- start tag is what its organisation used so far (its finish tag), but no more than CREDIT behind the queue's time, which is
-- also where an unknown organisation begins. The lowest goes first: who used less than its share goes ahead until it has.
local EPOCH_S, CREDIT, LATE, BUCKET, BUCKETS, MINUTE = 1767225600, 5000000, 250000, 300000000, 60, 60000000
local DAY_MS = 86400000
local MOST_KNOWN = 1000 -- organisations whose use is remembered
local UNKNOWN_MS = 1000 -- when a slot is freed, as long as none ever was
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = (tonumber(t[1]) - EPOCH_S) * 1000000 + tonumber(t[2])
end
local now_ms = math.floor(now / 1000) + EPOCH_S * 1000
local node, connection = ARGV[2], ARGV[3]
local ur, br, ut, bt, gap = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local most_at_once, adaptive = tonumber(ARGV[9]), ARGV[10] == '1'
local most_waiting, lease_ms = tonumber(ARGV[11]), tonumber(ARGV[12])
local op, id = ARGV[13], ARGV[14]
local NAMES = {'r', 't', 'g', 'p', 'v', 'q', 'era', 'cap', 'ok', 'hold', 'seen'}
local fields = redis.call('HMGET', KEYS[1], unpack(NAMES))
local r, t, g, pause = tonumber(fields[1] or 0), tonumber(fields[2] or 0), tonumber(fields[3] or 0), tonumber(fields[4] or 0)
local virtual, queued, era = tonumber(fields[5] or 0), tonumber(fields[6] or 0), tonumber(fields[7] or 0)
local cap, ok, hold, seen = tonumber(fields[8] or 0), tonumber(fields[9] or 0), tonumber(fields[10] or 0), tonumber(fields[11] or 0)
if not adaptive or cap <= 0 or cap > most_at_once then cap = most_at_once end
local room = math.max(1, math.floor(cap)) -- slots in force
local held = most_at_once > 0 and redis.call('ZCARD', KEYS[2]) or 0
if most_at_once > 0 and held >= room then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms)
  held = redis.call('ZCARD', KEYS[2])
end
local replies = {}

local function number(value) return string.format('%.17g', value) end
local function amount(unit, tokens, nano)
  if unit == 'r' then return 1 elseif unit == 't' then return tokens else return nano end
end

-- What such a call uses of the connection's time, in µs; 0: nobody knows yet.
local function pace_of(tokens)
  return math.max(ur, tokens * ut, gap, most_at_once > 0 and hold / room or 0)
end

-- A rate's arrival time as far as it matters now. A queue that was looked after a little late makes up for it.
local function from(tat, late)
  if tat >= now or (late and tat > now - LATE) then return tat end
  return now
end

-- What must leave a quota's window before `n` more fit, in µs from now; 0: nothing.
local function quota_wait(i, n)
  local key, limit, ends = KEYS[6 + i], tonumber(ARGV[21 + 3 * i]), tonumber(ARGV[22 + 3 * i])
  if n > limit then n = limit end
  if ends > 0 then
    if tonumber(redis.call('GET', key) or 0) + n <= limit then return 0 end
    return math.max(1, ends - now)
  end
  local flat, used, at = redis.call('HGETALL', key), 0, {}
  local oldest = math.floor(now / BUCKET) - BUCKETS
  for k = 1, #flat, 2 do
    local bucket = tonumber(flat[k])
    if bucket >= oldest then
      used = used + tonumber(flat[k + 1])
      at[#at + 1] = {bucket, tonumber(flat[k + 1])}
    else
      redis.call('HDEL', key, flat[k])
    end
  end
  local over = used + n - limit
  if over <= 0 then return 0 end
  table.sort(at, function(a, b) return a[1] < b[1] end)
  for _, each in ipairs(at) do
    over = over - each[2]
    if over <= 0 then return math.max(1, (each[1] + BUCKETS + 1) * BUCKET - now) end
  end
  return BUCKET
end

-- When such a call may go, in µs from now (-2: when a slot is released), and what it waits for.
local function wait_for(tokens, nano, late)
  local wait, why = 0, 0
  if pause > now then wait, why = pause - now, 6 end
  if ur > 0 then
    local over = from(r, late) + ur - now - math.max(br, 1) * ur
    if over > 0.5 and over > wait then wait, why = over, 1 end
  end
  if ut > 0 then
    local over = from(t, late) + tokens * ut - now - math.max(bt, tokens) * ut
    if over > 0.5 and over > wait then wait, why = over, 2 end
  end
  if gap > 0 and g - now > 0.5 and g - now > wait then wait, why = g - now, 3 end
  for i = 1, #KEYS - 6 do
    local over = quota_wait(i, amount(ARGV[20 + 3 * i], tokens, nano))
    if over > wait then wait, why = over, 5 end
  end
  if wait == 0 and most_at_once > 0 and held >= room then return -2, 4 end
  return wait, why
end

local function count(n_requests, tokens, nano)
  for i = 1, #KEYS - 6 do
    local unit, ends = ARGV[20 + 3 * i], tonumber(ARGV[22 + 3 * i])
    local n = unit == 'r' and n_requests or amount(unit, tokens, nano)
    if n ~= 0 and ends > 0 then
      redis.call('INCRBY', KEYS[6 + i], string.format('%.0f', n))
      redis.call('PEXPIRE', KEYS[6 + i], math.max(1000, math.ceil((ends - now) / 1000) + 60000))
    elseif n ~= 0 then
      redis.call('HINCRBY', KEYS[6 + i], string.format('%.0f', math.floor(now / BUCKET)), string.format('%.0f', n))
      redis.call('PEXPIRE', KEYS[6 + i], 21600000)
    end
  end
end

local function use(ticket, tokens, nano, late)
  if ur > 0 then r = from(r, late) + ur end
  if ut > 0 then t = from(t, late) + tokens * ut end
  if gap > 0 then g = now + gap end
  if most_at_once > 0 then
    redis.call('ZADD', KEYS[2], now_ms + lease_ms, ticket)
    redis.call('PEXPIRE', KEYS[2], lease_ms * 2)
    held = held + 1
  end
  count(1, tokens, nano)
end

local function finish(organisation, tag)
  if redis.call('ZADD', KEYS[6], number(tag), organisation) == 1 then
    redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -1 - MOST_KNOWN)
    redis.call('PEXPIRE', KEYS[6], DAY_MS)
  end
end

-- Takes a ticket out of the queue. Unless it went, its organisation need not pay for it.
local function out(ticket, went)
  local packed = redis.call('HGET', KEYS[4], ticket)
  redis.call('ZREM', KEYS[3], ticket)
  redis.call('ZREM', KEYS[5], ticket)
  if not packed then return nil end
  redis.call('HDEL', KEYS[4], ticket)
  local of, organisation, tokens, nano, cost = string.match(packed, '^(.*)\n(.*)\n(.*)\n(.*)\n(.*)$')
  cost = tonumber(cost)
  queued = math.max(0, queued - tonumber(tokens))
  if not went then
    local tag = redis.call('ZSCORE', KEYS[6], organisation)
    if tag then finish(organisation, tonumber(tag) - cost) end
  end
  return of, tonumber(tokens), tonumber(nano), organisation, cost
end

-- Says something to a ticket's node; whether somebody hears it.
local function tell(of, ticket, said_era, retry_ms, next_us)
  if of == node then
    if ticket ~= '' then
      replies[#replies + 1] = ticket
      replies[#replies + 1] = said_era
      replies[#replies + 1] = retry_ms
    end
    return true
  end
  local message = connection .. '\n' .. ticket .. '\n' .. said_era .. '\n' .. retry_ms .. '\n' .. string.format('%.0f', next_us)
  return redis.call('PUBLISH', 'ws:DATABASE:slots:' .. of, message) > 0
end

-- Lets go whoever may. Returns when the next may, and whose it is.
local function drain(changed)
  if redis.call('ZCARD', KEYS[3]) == 0 then return -1, '' end
  local late = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', 0, 100)
  for _, ticket in ipairs(late) do
    out(ticket, false)
    changed = true
  end
  while true do
    local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
    if #first == 0 then return -1, '' end
    local ticket, tag = first[1], tonumber(first[2])
    local of, _, tokens, nano = string.match(redis.call('HGET', KEYS[4], ticket) or '\n\n0\n0\n0', '^(.*)\n(.*)\n(.*)\n(.*)\n.*$')
    tokens, nano = tonumber(tokens), tonumber(nano)
    local wait = wait_for(tokens, nano, true)
    if wait ~= 0 then
      if not changed or tell(of, '', 0, 0, wait) then return wait, of end
      out(ticket, false)
    else
      local heard = tell(of, ticket, era, 0, 0)
      out(ticket, heard)
      changed = true
      if heard then
        use(ticket, tokens, nano, true)
        if tag > virtual then virtual = tag end
      end
    end
  end
end

local function answer(code, x, retry_ms, next_us, of)
  if cap >= most_at_once then cap = 0 end -- at the ceiling, wherever it will be
  local values, changed = {r, t, g, pause, virtual, queued, era, cap, ok, hold, seen}, {}
  for i, value in ipairs(values) do
    if value ~= tonumber(fields[i] or 0) then
      changed[#changed + 1] = NAMES[i]
      changed[#changed + 1] = number(value)
    end
  end
  if #changed > 0 then
    redis.call('HSET', KEYS[1], unpack(changed))
    redis.call('PEXPIRE', KEYS[1], DAY_MS)
  end
  return {code, x, math.ceil(retry_ms), math.ceil(next_us), of == node and 1 or 0, unpack(replies)}
end

if op == 'take' then
  if most_at_once > 0 and redis.call('ZSCORE', KEYS[2], id) then return answer(1, era, 0, -1, '') end
  local first, of = drain(false)
  if first ~= -1 and redis.call('ZSCORE', KEYS[3], id) then return answer(2, 0, 0, first, of) end
  local organisation, tokens, nano, longest = ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18])
  if now - seen > MINUTE and first == -1 then redis.call('DEL', KEYS[6]) end -- after a quiet minute all are equal
  seen = now
  local cost = pace_of(tokens)
  if cost == 0 then cost = UNKNOWN_MS * 1000 / room end
  local tag = math.max(virtual - CREDIT, tonumber(redis.call('ZSCORE', KEYS[6], organisation) or virtual))
  local wait, why = wait_for(tokens, nano, false)
  if wait == 0 and first == -1 then
    use(id, tokens, nano, false)
    if tag > virtual then virtual = tag end
    finish(organisation, tag + cost)
    return answer(1, era, 0, -1, '')
  end
  local waiting, ahead = redis.call('ZCARD', KEYS[3]), redis.call('ZCOUNT', KEYS[3], '-inf', number(tag))
  local expected = math.max(wait, first)
  if expected < 0 then expected = hold / room end -- for a slot
  if ahead > 0 then expected = expected + ahead * pace_of(queued / waiting) end
  if longest <= 0 or expected > longest then
    if why == 0 then why = ut * tokens > ur and 2 or ur > 0 and 1 or gap > 0 and 3 or 4 end
    local retry_ms = (expected - math.max(0, longest)) / 1000
    return answer(3, why, retry_ms > 0 and retry_ms or UNKNOWN_MS, first, of)
  end
  if waiting >= most_waiting then
    local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
    local retry_ms = math.max(1, math.ceil(math.max(0, first, pace_of(queued / math.max(1, waiting))) / 1000))
    if #last == 0 or tonumber(last[2]) <= tag then return answer(3, 7, retry_ms, first, of) end
    local whose = out(last[1], false)
    if whose then tell(whose, last[1], -1, retry_ms, 0) end
  end
  redis.call('ZADD', KEYS[3], number(tag), id)
  redis.call('HSET', KEYS[4], id, node .. '\n' .. organisation .. '\n' .. ARGV[16] .. '\n' .. ARGV[17] .. '\n' .. number(cost))
  redis.call('ZADD', KEYS[5], now_ms + math.ceil(longest / 1000) + 1000, id)
  for k = 3, 5 do redis.call('PEXPIRE', KEYS[k], 700000) end
  finish(organisation, tag + cost)
  queued = queued + tokens
  first, of = drain(false)
  return answer(2, ahead, 0, first, of)
elseif op == 'done' then
  local more, nano, rest = tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18])
  local its_era, went, span = tonumber(ARGV[19]), tonumber(ARGV[20]), tonumber(ARGV[21])
  local unused = ARGV[22] == '1'
  if most_at_once > 0 then held = held - redis.call('ZREM', KEYS[2], id) end
  if ut > 0 then t = math.min(t + more * ut, now + MINUTE + bt * ut) end
  if unused and ur > 0 then r = r - ur end
  count(unused and -1 or 0, more, nano)
  if rest > 0 and now + rest > pause then pause = now + rest end
  if most_at_once > 0 then
    if span > 0 then hold = hold == 0 and span or hold * 0.9 + span * 0.1 end
    if adaptive and went < 0 and its_era == era then
      cap, ok, era = math.max(1, cap * 0.7), 0, era + 1
    elseif adaptive and went > 0 and cap < most_at_once then
      ok = ok + 1
      if ok >= cap then cap, ok = math.min(most_at_once, cap + 1), 0 end
    end
    room = math.max(1, math.floor(cap))
  end
elseif op == 'leave' then
  if most_at_once > 0 and redis.call('ZSCORE', KEYS[2], id) then return answer(1, era, 0, -1, '') end
  local first = redis.call('ZRANGE', KEYS[3], 0, 0)
  out(id, false)
  local next_us, of = drain(first[1] == id)
  return answer(0, 0, 0, next_us, of)
end
local next_us, of = drain(false)
return answer(0, 0, 0, next_us, of)
