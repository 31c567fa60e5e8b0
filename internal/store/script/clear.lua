-- clear.lua: the data of a damaged room end, for those who hold its connections to put
-- them back.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 ms for which data that were made anew stay as they are
-- Reply: 1 or 0: deleted, or made anew lately
--
-- Several replicas find out about the same damage. What the first has put back already
-- is not for the others to delete.
-- Needs room.lua.
local value = redis.pcall('GET', VERSION) -- it may be what is damaged
local birth = type(value) == 'string' and tonumber(string.match(value, '^%d+ (%d+)$'))
if birth and us >= birth and us - birth < ARGV[4] * 1000 then return 0 end
call('DEL', unpack(KEYS))
return 1
