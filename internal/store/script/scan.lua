-- scan.lua: reads a part of the users of a room, in no order. Changes nothing.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 birth of the cursor's data ('' for any), 5 cursor, '0' for the first part,
--       6 about how many users
-- Reply: {users, connections, version, birth, next cursor, rows}
--        next cursor '0': that was the last part. rows: three for each user: user,
--        value of users, connections
--
-- A cursor is only valid for the data that it came from. If the room has other data now, the scan
-- begins anew.
-- Needs room.lua.
audit()
complete()
local version, birth = born()
local cursor = (ARGV[4] == '' or ARGV[4] == birth) and ARGV[5] or '0'
local found = call('HSCAN', USERS, cursor, 'COUNT', ARGV[6])
local values, rows = found[2], {}
for first = 1, #values, 1000 do -- HSCAN returns a small HASH as a whole, whatever COUNT says
  local ids = {}
  for i = first, math.min(first + 999, #values), 2 do ids[#ids + 1] = values[i] end
  local refs = call('HMGET', REFS, unpack(ids))
  for i = 1, #ids do
    rows[#rows + 1] = ids[i]
    rows[#rows + 1] = values[first + 2 * i - 1]
    rows[#rows + 1] = tonumber(refs[i] or 1)
  end
end
return {call('SCARD', ONLINE), call('ZCARD', BEATS), version, birth, found[1], rows}
