-- release.lua: sockets are gone; their connections end after the grace unless somebody comes back.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET
-- ARGV: 1 key ttl ms, 2 grace ms, 3.. two for each connection: id, generation of the socket that is gone
-- Reply: 1 or 0 for each connection: released, or not this generation's to release
--
-- The connection passes to the generation '....', so that a heartbeat of the
-- old one that is still on its way can't renew it. The first write is one that a
-- full Redis allows.
local time = redis.call('TIME')
local deadline = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
local ids = {}
for i = 3, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local known = redis.call('HMGET', KEYS[3], unpack(ids))
local reply, beats, dead, values = {}, {}, {}, {}
for i = 1, #ids do
  local gen = ARGV[2 + 2 * i]
  reply[i] = 0
  if known[i] and string.sub(known[i], 1, 4) == gen then
    reply[i] = 1
    dead[#dead + 1] = ids[i] .. gen
    beats[#beats + 1] = deadline
    beats[#beats + 1] = ids[i] .. '....'
    values[#values + 1] = ids[i]
    values[#values + 1] = '....' .. string.sub(known[i], 5)
  end
end
if #dead > 0 then
  redis.call('ZREM', KEYS[2], unpack(dead))
  redis.call('ZADD', KEYS[2], unpack(beats))
  redis.call('HSET', KEYS[3], unpack(values))
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
return reply
