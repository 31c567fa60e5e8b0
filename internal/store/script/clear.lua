-- clear.lua: the data of a damaged room end, for those who hold its connections to put
-- them back.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 ms that replicas need to put them back
-- Reply: 1 or 0: deleted, or made anew lately
--
-- Several replicas find out about the same damage. What the first has put back already
-- is not for the others to delete. After the birth of the room stands when all of them will
-- have put back what they hold: until then nobody who reads it takes it for whole.
-- Needs room.lua.
local value = redis.pcall('GET', VERSION) -- it may be what is damaged
local birth = type(value) == 'string' and tonumber(string.match(value, '^%d+ (%d+)'))
local spell = ARGV[4] * 1000
if birth and math.abs(us - birth) < spell then return 0 end
call('DEL', unpack(KEYS))
call('SET', VERSION, int(us) .. ' ' .. int(us) .. ' ' .. int(us + spell), 'PX', SPARE)
return 1
