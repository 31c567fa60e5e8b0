-- update.lua: changes a user's name or metadata.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 connection, 5 user, 6 the value of users that the caller has read,
--       7 name, and after a line feed the metadata, if there are any
-- Reply: {users, connections, version, birth, outcome, number of the user's connections}
--        outcome 1: done; 0: the connection does not exist, or has another user;
--        -1: the value has changed
-- Needs room.lua and users.lua.
local user, outcome = nil, 0
local value = call('HGET', CONNS, ARGV[4])
keep(ms)
if value and string.sub(value, 5) == ARGV[5] then
  user = note(ARGV[5], true)
  look()
  open(user)
  outcome = -1
  if had[user] > 0 and stored[user] == ARGV[6] then
    outcome = 1
    tail[user] = ARGV[7]
  end
end
local reply = settle()
reply[5], reply[6] = outcome, user and has[user] or 0
return reply
