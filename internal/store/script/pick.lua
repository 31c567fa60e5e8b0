-- pick.lua: tells which of some users are in the room. Changes nothing.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4.. users
-- Reply: {users, connections, version, birth, then two for each user: value of users,
--         number of connections; '' and 0 for a user who is not present}
-- Needs room.lua.
audit()
complete()
local version, birth = born()
local reply = {call('SCARD', ONLINE), call('ZCARD', BEATS), version, birth}
if #ARGV > 3 then
  local values = call('HMGET', USERS, unpack(ARGV, 4))
  local refs = call('HMGET', REFS, unpack(ARGV, 4))
  for i = 1, #values do
    reply[3 + 2 * i] = values[i] or ''
    reply[4 + 2 * i] = values[i] and tonumber(refs[i] or 1) or 0
  end
end
return reply
