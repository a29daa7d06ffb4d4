-- Seed a budget cell from the ledger: what was spent by Postgres and by events on their way there, what is reserved by
-- calls in flight.
--
-- KEYS[1] budget cell, KEYS[2] its unconfirmed hash, KEYS[3] reservation records
-- ARGV[1] boot  [2] spent according to Postgres  [3] Unix second at which the cell may go, 0: never
--     [4..] pairs: id that was in the unconfirmed hash when Postgres was asked, '1' if Postgres had it
-- Returns {1, spent, reserved} seeded; {0} somebody else did; {2} an event came in between: ask Postgres again
if redis.call('HGET', KEYS[1], 'boot') == ARGV[1] then return {0} end
local listed = {}
for i = 4, #ARGV, 2 do listed[ARGV[i]] = ARGV[i + 1] end
local spent = tonumber(ARGV[2])
local waiting = redis.call('HGETALL', KEYS[2])
for i = 1, #waiting, 2 do
  local present = listed[waiting[i]]
  if not present then return {2} end
  if present ~= '1' then spent = spent + tonumber(waiting[i + 1]) end
end
local reserved = 0
local records = redis.call('HVALS', KEYS[3])
for i = 1, #records do
  local boot, amount, cells = string.match(records[i], '^([^\n]*)\n([^\n]*)\n[^\n]*\n([^\n]*)\n')
  if boot == ARGV[1] and string.find(cells, '"' .. KEYS[1] .. '"', 1, true) then reserved = reserved + tonumber(amount) end
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'boot', ARGV[1], 'spent', string.format('%.0f', spent), 'reserved', string.format('%.0f', reserved))
if ARGV[3] ~= '0' then redis.call('EXPIREAT', KEYS[1], ARGV[3]) end
return {1, spent, reserved}
