-- release.lua: sockets are gone; their connections end after the grace unless somebody comes back.
-- KEYS: 1 beats ZSET, 2 conns HASH
-- ARGV: 1 grace ms, 2.. two for each connection: id, generation of the socket that is gone
-- Reply: 1 or 0 for each connection: released, or not this generation's to release
--
-- The connection passes to the generation '....', so that a heartbeat of the
-- old one that is still on its way can't renew it.
local time = redis.call('TIME')
local deadline = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
local ids = {}
for i = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local known = redis.call('HMGET', KEYS[2], unpack(ids))
local reply, beats, dead, values = {}, {}, {}, {}
for i = 1, #ids do
  local gen = ARGV[1 + 2 * i]
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
  redis.call('ZREM', KEYS[1], unpack(dead))
  redis.call('ZADD', KEYS[1], unpack(beats))
  redis.call('HSET', KEYS[2], unpack(values))
end
return reply
