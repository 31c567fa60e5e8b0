-- release.lua: the sockets of connections are gone. The connections end after the grace,
-- unless their tabs come back.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 grace ms, 5.. two for each connection: id, generation of the socket that is gone
-- Reply: 1 or 0 for each connection: released, or another generation has it
--
-- The connection gets the generation '....', so that a heartbeat of the old generation that is
-- still on its way can't renew it.
-- Needs room.lua.
local deadline = ms + ARGV[4]
local ids = {}
for i = 5, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local known = call('HMGET', CONNS, unpack(ids))
local reply, beats, dead, values = {}, {}, {}, {}
for i = 1, #ids do
  local gen = ARGV[4 + 2 * i]
  reply[i] = 0
  if known[i] and string.sub(known[i], 1, 4) == gen then
    reply[i] = 1
    dead[#dead + 1] = ids[i] .. gen
    beats[#beats + 1] = int(deadline)
    beats[#beats + 1] = ids[i] .. RELEASED
    values[#values + 1] = ids[i]
    values[#values + 1] = RELEASED .. string.sub(known[i], 5)
  end
end
if #dead > 0 then
  keep(deadline)
  call('ZREM', BEATS, unpack(dead))
  lease(beats)
  call('HSET', CONNS, unpack(values))
end
return reply
