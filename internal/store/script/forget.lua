-- forget.lua: removes rooms that were found empty from the list of rooms in use.
-- KEYS: 1 rooms ZSET (score: when the room was last registered, ms)
-- ARGV: 1 age ms, 2.. rooms
-- Reply: number of rooms forgotten
--
-- A room that was registered less than age ago stays: somebody may be joining it.
local time = redis.call('TIME')
local old = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1]
local n = 0
for i = 2, #ARGV do
  local at = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if at and tonumber(at) <= old then n = n + redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return n
