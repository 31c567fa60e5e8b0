-- changes.lua: reads what changed in a room since a version, entry by entry. Changes nothing.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 version, 5 most entries
-- Reply: {users, connections, version, birth, 1 or 0: whether the log has all changes, rows}
--        rows: one for each entry, {id, {field, value, ...}}
-- Needs room.lua.
audit()
complete()
local version, birth = born()
local reply = {call('SCARD', ONLINE), call('ZCARD', BEATS), version, birth, 1, {}}
if ARGV[4] == int(version) then return reply end
local entries = call('XRANGE', LOG, '(' .. ARGV[4] .. '-0', '+')
local told = #entries > 0 and entries[1][2][2] == ARGV[4] and entries[#entries][1] == int(version) .. '-0'
for i = 1, #entries do
  told = told and entries[i][2][7] ~= 'm'
end
if not told then
  reply[5] = 0
  return reply
end
for i = 1, math.min(#entries, tonumber(ARGV[5])) do reply[6][i] = entries[i] end
return reply
