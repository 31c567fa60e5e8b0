-- remove.lua: ends the connections of a user that it finds in a part of the room's connections.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM,
--       9 removed ZSET
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 user, 5 cursor ('0' for the first part), 6 about how many connections to look at,
--       7 ms for which Redis remembers that the user was removed
-- Reply: {users, connections, version, birth, next cursor, connections that the user has
--         left, then the connections that ended}
--        next cursor '0': that was the last part
-- Needs room.lua and users.lua.
local MARKED = 10000 -- most removed users that are remembered; beyond that the earliest are forgotten
local user = ARGV[4]
local at = note(user)
keep(ms)
look()
local ids, dead, nextcursor = {}, {}, '0'
if has[at] > 0 then
  local found = call('HSCAN', CONNS, ARGV[5], 'COUNT', ARGV[6])
  nextcursor = found[1]
  local seen = {} -- a scan may return one twice
  for i = 1, #found[2], 2 do
    local conn, value = found[2][i], found[2][i + 1]
    if string.sub(value, 5) == user and not seen[conn] then
      seen[conn] = true
      ids[#ids + 1] = conn
      dead[#dead + 1] = conn .. string.sub(value, 1, 4)
    end
  end
  if #ids > has[at] then damaged('more connections than references') end
end
has[at] = has[at] - #ids
reason[at] = 'removed'
for first = 1, #ids, 1000 do
  local last = math.min(first + 999, #ids)
  call('ZREM', BEATS, unpack(dead, first, last))
  call('HDEL', CONNS, unpack(ids, first, last))
end
local reply = settle()
-- Replicas must not put back older connections of the user. If the user is not there, Redis
-- may have lost such connections.
if #ids > 0 or had[at] == 0 then
  call('ZREMRANGEBYSCORE', REMOVED, '-inf', int(us - ARGV[7] * 1000))
  call('ZADD', REMOVED, int(math.max(reply[3], us - 1)), user) -- a user who comes now comes later
  call('ZREMRANGEBYRANK', REMOVED, 0, -MARKED - 1)
  call('PEXPIRE', REMOVED, ARGV[7])
end
reply[5], reply[6] = nextcursor, has[at]
for i = 1, #ids do reply[6 + i] = ids[i] end
return reply
