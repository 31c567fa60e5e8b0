-- list.lua: lists rooms of the index. Changes nothing.
-- KEYS: 1 numbers HASH (room -> "<version> <users> <connections>"), 2 names ZSET (all
--       scores 0), 3 busy ZSET (score: users)
-- ARGV: 1 'busy' to list the rooms with most users first, 'name' to list them by name,
--       2 most rooms; for 'name' also: 3 and 4 the range, as in ZRANGE BYLEX
-- Reply: two for each room: room, value of numbers
local rooms
if ARGV[1] == 'busy' then
  rooms = redis.call('ZRANGE', KEYS[3], 0, ARGV[2] - 1, 'REV')
else
  rooms = redis.call('ZRANGE', KEYS[2], ARGV[3], ARGV[4], 'BYLEX', 'LIMIT', 0, ARGV[2])
end
local reply = {}
if #rooms > 0 then
  local values = redis.call('HMGET', KEYS[1], unpack(rooms))
  for i = 1, #rooms do
    if values[i] then
      reply[#reply + 1] = rooms[i]
      reply[#reply + 1] = values[i]
    end
  end
end
return reply
