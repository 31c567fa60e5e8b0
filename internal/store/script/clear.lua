-- clear.lua: deletes the data of a damaged room, so that replicas put back the connections
-- they hold.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 ms that replicas need to put them back
-- Reply: 1 or 0: deleted, or not deleted since it was made anew lately
--
-- Several replicas find the same damage. The others must not delete what the first has put
-- back already. After the birth of the room stands the time by which all of them will have
-- put back the connections they hold. Until then the room can't be read as if it were whole.
-- Needs room.lua.
local value = redis.pcall('GET', VERSION) -- this key may be the damaged one
local birth = type(value) == 'string' and tonumber(string.match(value, '^%d+ (%d+)'))
local spell = ARGV[4] * 1000
if birth and math.abs(us - birth) < spell then return 0 end
call('DEL', unpack(KEYS))
call('SET', VERSION, int(us) .. ' ' .. int(us) .. ' ' .. int(us + spell), 'PX', SPARE)
return 1
