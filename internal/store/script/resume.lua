-- resume.lua: new sockets of tabs that may be in the room already take over.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET
-- ARGV: 1 key ttl ms, 2 member ttl ms, 3.. two for each connection: id, new generation
-- Reply: one value for each connection: "<user id> <name>", or '' for one that is not there
--
-- Nothing that others see changes: the connection keeps its place and its user.
-- A full Redis refuses the ZADD if it is the first write, hence PEXPIRE before it.
local time = redis.call('TIME')
local deadline = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
local ids = {}
for i = 3, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local known = redis.call('HMGET', KEYS[3], unpack(ids))
local reply, beats, dead, values = {}, {}, {}, {}
for i = 1, #ids do
  reply[i] = ''
  if known[i] then
    local gen = ARGV[2 + 2 * i]
    local was = string.sub(known[i], 1, 4)
    reply[i] = string.sub(known[i], 6)
    beats[#beats + 1] = deadline
    beats[#beats + 1] = ids[i] .. gen
    if was ~= gen then
      dead[#dead + 1] = ids[i] .. was
      values[#values + 1] = ids[i]
      values[#values + 1] = gen .. ' ' .. reply[i]
    end
  end
end
if #beats > 0 then
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
  redis.call('ZADD', KEYS[2], unpack(beats))
  if #dead > 0 then
    redis.call('ZREM', KEYS[2], unpack(dead))
    redis.call('HSET', KEYS[3], unpack(values))
  end
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
return reply
