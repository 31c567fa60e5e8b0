-- read.lua: reads what changed in a room since a version, or the whole room. Changes nothing.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 version that the reader has ('' for none), 5 birth of the reader's data ('' for any),
--       6 most users of the whole room
-- Reply: {users, connections, version, birth, what, rows}
--        what 0: the reader has that version, no rows; 1: a row for each entry of the
--        log since then, {id, {field, value, ...}}; 2: the whole room, three rows for
--        each of the first users by order of joining: user, value of users, connections
-- Needs room.lua.
audit()
complete()
local after = ARGV[4]
local version, birth = born()
local reply = {call('SCARD', ONLINE), call('ZCARD', BEATS), version, birth, 2}
if after ~= '' and birth ~= '' and (ARGV[5] == '' or ARGV[5] == birth) then
  if tonumber(after) == version then
    reply[5] = 0
    return reply
  end
  local entries = call('XRANGE', LOG, '(' .. after .. '-0', '+', 'COUNT', CAP + 1)
  local whole = #entries > 0 and #entries <= CAP and entries[1][2][2] == after
    and entries[#entries][1] == int(version) .. '-0'
  for i = 1, #entries do
    whole = whole and entries[i][2][7] ~= 'm'
  end
  if whole then
    reply[5], reply[6] = 1, entries
    return reply
  end
end
local listed = ARGV[6] == '0' and {} or call('ZRANGE', ROSTER, 0, ARGV[6] - 1)
local rows = {}
if #listed > 0 then
  local values = call('HMGET', USERS, unpack(listed))
  local refs = call('EXISTS', REFS) == 1 and call('HMGET', REFS, unpack(listed))
  for i = 1, #listed do
    if values[i] then
      rows[#rows + 1] = listed[i]
      rows[#rows + 1] = values[i]
      rows[#rows + 1] = refs and tonumber(refs[i] or 1) or 1
    end
  end
end
reply[6] = rows
return reply
