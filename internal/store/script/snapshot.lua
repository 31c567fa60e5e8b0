-- snapshot.lua: a room at one version. Changes nothing.
-- KEYS: 1 online SET, 2 beats ZSET, 3 version, 4 roster ZSET
-- ARGV: 1 most names
-- Reply: {users, connections, version, then names by order of joining, each "<user id> <name>"}
local reply = {redis.call('SCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]), tonumber(redis.call('GET', KEYS[3]) or 0)}
local rows = redis.call('ZRANGE', KEYS[4], 0, ARGV[1] - 1)
for i = 1, #rows do reply[3 + i] = rows[i] end
return reply
