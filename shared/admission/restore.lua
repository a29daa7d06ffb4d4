-- Put a live reservation back after Redis came back empty (or as of an older moment).
--
-- KEYS[1] reservations, KEYS[2] reservation records, then the reservation's concurrency cells, then its budget cells
-- ARGV[1] event id  [2] boot  [3] lease in ms  [4] reserved  [5] tokens for rate cells  [6] cells JSON  [7] estimated event
--     [8] number of concurrency cells
-- Returns 1 restored, 0 it was there already under this boot
local t = redis.call('TIME')
local expiry_ms = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[3])
local id, boot = ARGV[1], ARGV[2]
local record = redis.call('HGET', KEYS[2], id)
if record and string.match(record, '^([^\n]*)\n') == boot then return 0 end
redis.call('ZADD', KEYS[1], expiry_ms, id)
redis.call('HSET', KEYS[2], id, boot .. '\n' .. ARGV[4] .. '\n' .. ARGV[5] .. '\n' .. ARGV[6] .. '\n' .. ARGV[7])
local concurrent = tonumber(ARGV[8])
for i = 3, #KEYS do
  if i - 2 <= concurrent then
    redis.call('ZADD', KEYS[i], expiry_ms, id)
    redis.call('PEXPIRE', KEYS[i], tonumber(ARGV[3]) * 2)
  elseif redis.call('HGET', KEYS[i], 'boot') == boot then
    redis.call('HINCRBY', KEYS[i], 'reserved', ARGV[4]) -- seeded before this node had told of its calls
  end
end
return 1
