-- find.lua: the user and generation of a connection. Changes nothing.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease, 4 connection
-- Reply: {generation, user, value of users, number of the user's connections}; empty
--        if the connection does not exist
-- Needs room.lua and users.lua.
local value = call('HGET', CONNS, ARGV[4])
if not value then
  complete()
  return {}
end
local user = note(string.sub(value, 5), true)
look()
return {string.sub(value, 1, 4), users[user], stored[user], has[user]}
