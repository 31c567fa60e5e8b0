-- note.lua: writes numbers of rooms into the index.
-- KEYS: 1 numbers HASH (room -> "<version> <users> <connections>"), 2 names ZSET (all
--       scores 0), 3 busy ZSET (score: users)
-- ARGV: four for each room: room, users, connections, version
-- Reply: how many of them were new
--
-- An empty room is in none of the keys. Numbers older than the stored ones are ignored; version 0
-- is that of a room that no longer exists. If the parts of the index do not fit together, because
-- one was deleted or has a wrong type, the index begins anew, and replicas note all rooms again.
local sizes = {redis.pcall('HLEN', KEYS[1]), redis.pcall('ZCARD', KEYS[2]), redis.pcall('ZCARD', KEYS[3])}
if type(sizes[1]) ~= 'number' or sizes[1] ~= sizes[2] or sizes[1] ~= sizes[3] then
  redis.call('DEL', unpack(KEYS))
end
-- The first write is one that a full Redis accepts.
redis.call('ZREM', KEYS[2], '')
local news = 0
for i = 1, #ARGV, 4 do
  local room, users = ARGV[i], tonumber(ARGV[i + 1])
  local noted = redis.call('HGET', KEYS[1], room)
  local version = noted and tonumber(string.match(noted, '^%d+')) or -1
  if tonumber(ARGV[i + 3]) >= version or ARGV[i + 3] == '0' then
    if users > 0 then
      local value = ARGV[i + 3] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2]
      if value ~= noted then
        redis.call('HSET', KEYS[1], room, value)
        redis.call('ZADD', KEYS[2], 0, room)
        redis.call('ZADD', KEYS[3], users, room)
        news = news + 1
      end
    elseif noted then
      redis.call('HDEL', KEYS[1], room)
      redis.call('ZREM', KEYS[2], room)
      redis.call('ZREM', KEYS[3], room)
      news = news + 1
    end
  end
end
return news
