-- register.lua: registers rooms as in use.
-- KEYS: 1 rooms ZSET (score: when the room was last registered, ms)
-- ARGV: 1 most rooms (0: no limit; -1: they have members, so they are on the list
--       even when Redis is full), 2.. rooms
-- Reply: 1 or 0 for each room: registered, or refused because there are too many
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local limit, reply = tonumber(ARGV[1]), {}
-- A list of another type counts as lost, and is made anew.
if type(redis.pcall('ZCARD', KEYS[1])) ~= 'number' then redis.call('DEL', KEYS[1]) end
-- A full Redis refuses the ZADD if that is the first write.
if limit < 0 then redis.call('ZREM', KEYS[1], '') end
for i = 2, #ARGV do
  if limit > 0 and redis.call('ZCARD', KEYS[1]) >= limit and not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    reply[i - 1] = 0
  else
    redis.call('ZADD', KEYS[1], now, ARGV[i])
    reply[i - 1] = 1
  end
end
return reply
