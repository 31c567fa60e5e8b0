-- heartbeat.lua: leases are renewed.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET
-- ARGV: 1 key ttl ms, 2 member ttl ms, 3.. connections, each "<id><generation>"
-- Reply: the 1-based positions of the connections that Redis does not know, or
--        that have another generation now
--
-- The hottest script: nothing but one ZADD unless somebody is missing.
-- A full Redis refuses the ZADD if it is the first write, hence PEXPIRE before it.
local time = redis.call('TIME')
local deadline = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
local beats, n = {}, 0
for i = 3, #ARGV do
  beats[n + 1] = deadline
  beats[n + 2] = ARGV[i]
  n = n + 2
end
for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
local lost = {}
-- CH counts changed scores: fewer than sent means missing, or renewed within this very ms.
if redis.call('ZADD', KEYS[2], 'XX', 'CH', unpack(beats)) ~= #ARGV - 2 then
  local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV, 3))
  for i = 1, #ARGV - 2 do
    if not scores[i] then lost[#lost + 1] = i end
  end
end
return lost
