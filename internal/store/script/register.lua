-- register.lua: rooms are in use.
-- KEYS: 1 rooms ZSET (score: when the room was last registered, ms)
-- ARGV: 1 most rooms (0: no limit), 2.. rooms
-- Reply: 1 or 0 for each room: registered, or refused since there are too many
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local limit, reply = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
  if limit > 0 and redis.call('ZCARD', KEYS[1]) >= limit and not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    reply[i - 1] = 0
  else
    redis.call('ZADD', KEYS[1], now, ARGV[i])
    reply[i - 1] = 1
  end
end
return reply
