-- The cluster's board: what is wrong with deployments and connections. One operation a call; each is atomic.
--
-- KEYS[1] marks (HASH subject → mark JSON)  KEYS[2] version  KEYS[3..] counts (HASH), one for each subject of the operation
-- ARGV[1] now in Unix ms, for tests only; '' in production: Redis' own clock
--     [2] operation  [3] subject  [4..] its arguments:
--   strike  weight, successes, chance, failures, error_share, least_calls, window_s, open_s, longest_open_s, cause, status,
--           connection, model, provider
--           ignored when the subject has a mark: its breaker is open, and this call is from before
--   claim   connection's subject, credential's version, lease_ms        the one probe of both; all or nothing
--   renew   epoch, lease_ms
--   end     epoch, verdict (well, bad, free), chance, delay_ms, open_s, longest_open_s, cause, status
--           ignored when the mark has another epoch or no lease: the probe was too late
--   cool    told_ms or '', chance, cooldown_s, longest_cooldown_s, cause, status, connection, model, provider
--   lock    version, recheck_ms, cause, status, connection, model, provider
--   clear   epoch or '', then further subjects
--   look    (no subject) → {version, now_ms, life, subject, mark JSON, …}; prunes what is over
--   revive  life, then subject, mark JSON, …: after Redis lost its memory; marks that are there stay
-- Returns {code, strikes, version, subject, mark JSON or '', …}: code 1: done, 0: nothing was changed or counted.
-- Publishes on the health channel {v, s, m} for each changed mark (m absent: gone), {s, n, k} after a strike: n in a row, for k ms.
-- Invariants: versions only grow; a mark's epoch is the version of its last transition; at most one lease per epoch.
-- The same in Python, and tested against this: shared/routing/breaker.py.
local CHANNEL, KEEP_MS, MOST_MARKS, MOST_DOUBLINGS = 'ws:DATABASE:health', 600000, 2000, 30
local FORGET_BREAKER_MS, FORGET_LOCK_MS = 3600000, 86400000
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local op, subject = ARGV[2], ARGV[3]
local marks = KEYS[1]
local reply = {0, '0'}

local function number(at) return tonumber(ARGV[at]) end

local function mark_of(name)
  local found = redis.call('HGET', marks, name)
  return found and cjson.decode(found)
end

local function due(mark) return math.max(mark.until_ms, mark.lease_ms or 0) end

local function tell(name, mark, epoch)
  local version = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, now)
  redis.call('SET', KEYS[2], string.format('%.0f', version))
  local text = ''
  if mark then
    mark.epoch = epoch or version
    text = cjson.encode(mark)
    redis.call('HSET', marks, name, text)
  else
    redis.call('HDEL', marks, name)
  end
  redis.call('PUBLISH', CHANNEL, cjson.encode({v = version, s = name, m = mark or nil}))
  reply[1] = 1
  reply[#reply + 1] = string.format('%.0f', version)
  reply[#reply + 1] = name
  reply[#reply + 1] = text
end

local function backed_off(first_s, longest_s, times, chance)
  return math.floor(math.min(longest_s, first_s * 2 ^ math.min(times - 1, MOST_DOUBLINGS)) * 1000 * (0.8 + 0.4 * chance))
end

local function new_mark(state, wait_ms, at)
  return {state = state, since_ms = now, until_ms = now + wait_ms, cause = ARGV[at], status = number(at + 1),
    connection = ARGV[at + 2], model = ARGV[at + 3], provider = ARGV[at + 4], trips = 1}
end

local function roll(counts, half_ms)
  local half = math.floor(now / half_ms)
  if half ~= counts.half then
    local following = half == counts.half + 1
    counts.calls_before, counts.bad_before = following and counts.calls or 0, following and counts.bad or 0
    counts.half, counts.calls, counts.bad = half, 0, 0
  end
  if now - counts.last_ms > KEEP_MS then counts.row = 0 end
end

local function strike()
  local weight, successes = number(4), number(5)
  local kept = redis.call('HMGET', KEYS[3], 'row', 'last_ms', 'half', 'calls', 'bad', 'calls_before', 'bad_before')
  if mark_of(subject) or (weight == 0 and not kept[1]) then return end
  local before = tonumber(kept[1] or '0')
  for i = 1, 7 do kept[i] = tonumber(kept[i] or '0') end
  local counts = {row = kept[1], last_ms = kept[2], half = kept[3], calls = kept[4], bad = kept[5],
    calls_before = kept[6], bad_before = kept[7]}
  roll(counts, math.max(1, math.floor(number(10) * 500)))
  if successes > 0 then counts.row = 0 end
  counts.row = counts.row + weight
  counts.calls = counts.calls + successes + (weight > 0 and 1 or 0)
  counts.bad = counts.bad + weight
  if weight > 0 then
    counts.last_ms = now
    local calls, bad = counts.calls + counts.calls_before, counts.bad + counts.bad_before
    local rule = counts.row >= number(7) and 'row'
      or (calls >= number(9) and bad >= number(8) * calls and 'share')
    if rule and redis.call('HLEN', marks) < MOST_MARKS then
      redis.call('DEL', KEYS[3])
      local mark = new_mark('open', backed_off(number(11), number(12), 1, number(6)), 13)
      mark.rule = rule
      return tell(subject, mark)
    end
  end
  redis.call('HSET', KEYS[3], 'row', counts.row, 'last_ms', counts.last_ms, 'half', counts.half, 'calls', counts.calls,
    'bad', counts.bad, 'calls_before', counts.calls_before, 'bad_before', counts.bad_before)
  redis.call('PEXPIRE', KEYS[3], KEEP_MS)
  if weight > 0 or before > 0 then
    local keep_ms = counts.row > 0 and KEEP_MS or math.floor(number(10) * 1000)
    redis.call('PUBLISH', CHANNEL, cjson.encode({s = subject, n = counts.row, k = keep_ms}))
  end
  reply[1], reply[2] = 1, tostring(counts.row)
end

local function claim()
  local name, version, lease_ms = ARGV[4], number(5), now + number(6)
  local deployment, connection = mark_of(subject), mark_of(name)
  if deployment and due(deployment) > now then return end
  if connection and connection.state == 'cooling' then
    if connection.until_ms > now then return end
    connection = nil
  end
  if connection and (connection.version or 0) ~= version then connection = nil end
  if connection and due(connection) > now then return end
  reply[1] = 1
  if deployment then
    deployment.state, deployment.lease_ms = 'half_open', lease_ms
    tell(subject, deployment)
  end
  if connection then
    connection.lease_ms = lease_ms
    tell(name, connection)
  end
end

local function leased()
  local mark = mark_of(subject)
  return mark and mark.epoch == number(4) and (mark.lease_ms or 0) > 0 and mark or nil
end

local function renew()
  local mark = leased()
  if not mark then return end
  mark.lease_ms = now + number(5)
  tell(subject, mark, mark.epoch)
end

local function finish()
  local mark, verdict, delay_ms = leased(), ARGV[5], number(7)
  if not mark then return end
  if verdict == 'well' then
    redis.call('DEL', KEYS[3])
    return tell(subject, nil)
  end
  local locked = mark.state == 'locked'
  mark.state, mark.lease_ms = locked and 'locked' or 'open', 0
  if verdict == 'free' then
    if delay_ms > 0 then mark.until_ms = math.max(mark.until_ms, now + delay_ms) end
  else
    mark.trips = mark.trips + 1
    mark.until_ms = now + (locked and delay_ms or backed_off(number(8), number(9), mark.trips, number(6)))
    mark.rule, mark.cause, mark.status = locked and '' or 'probe', ARGV[10], number(11)
  end
  tell(subject, mark)
end

local function cool()
  local before = mark_of(subject)
  if before and before.state ~= 'cooling' then return end
  if before and before.until_ms <= now then before = nil end
  local told_ms, level, wait_ms = number(4), 1, nil
  if told_ms then
    wait_ms = math.min(math.max(told_ms, 1000), 3600000)
  elseif before then
    return -- a call from before the cooldown began
  else
    local known = redis.call('HMGET', KEYS[3], 'level', 'until_ms')
    if known[1] and tonumber(known[2]) > now then level = tonumber(known[1]) + 1 end
    wait_ms = backed_off(number(6), number(7), level, number(5))
    local quiet_ms = wait_ms + math.floor(number(7) * 1000)
    redis.call('HSET', KEYS[3], 'level', level, 'until_ms', string.format('%.0f', now + quiet_ms))
    redis.call('PEXPIRE', KEYS[3], quiet_ms + KEEP_MS)
  end
  if before and before.until_ms >= now + wait_ms then return end
  local mark = new_mark('cooling', wait_ms, 8)
  mark.trips = level
  if before then mark.since_ms = before.since_ms end
  tell(subject, mark)
end

local function lock()
  local before = mark_of(subject)
  if before and before.state == 'locked' and (before.version or 0) >= number(4) then return end
  local mark = new_mark('locked', number(5), 6)
  mark.version = number(4)
  tell(subject, mark)
end

local function clear()
  reply[1] = 1
  for i = 3, #KEYS do
    local name = i == 3 and subject or ARGV[i + 1]
    redis.call('DEL', KEYS[i])
    local mark = mark_of(name)
    if mark and (ARGV[4] == '' or mark.epoch == number(4)) then tell(name, nil) end
  end
end

local function look()
  local found = redis.call('HGETALL', marks)
  reply = {redis.call('GET', KEYS[2]) or '0', string.format('%.0f', now), redis.call('HGET', KEYS[3], 'life') or ''}
  for i = 1, #found, 2 do
    local mark = cjson.decode(found[i + 1])
    local over = mark.state == 'cooling' and mark.until_ms
      or due(mark) + (mark.state == 'locked' and FORGET_LOCK_MS or FORGET_BREAKER_MS)
    if over <= now then
      redis.call('HDEL', marks, found[i])
    else
      reply[#reply + 1] = found[i]
      reply[#reply + 1] = found[i + 1]
    end
  end
end

local function revive()
  if redis.call('HSETNX', KEYS[3], 'life', subject) == 1 then reply[1] = 1 end
  for i = 4, #ARGV, 2 do
    local mark = cjson.decode(ARGV[i + 1])
    if not redis.call('HGET', marks, ARGV[i]) then tell(ARGV[i], mark, mark.epoch) end
  end
end

local operations = {strike = strike, claim = claim, renew = renew, ['end'] = finish, cool = cool, lock = lock, clear = clear,
  look = look, revive = revive}
operations[op]()
return reply
