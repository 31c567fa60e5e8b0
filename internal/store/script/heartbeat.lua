-- heartbeat.lua: renews leases.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 lease ms, 5.. connections, each "<id><generation>"
-- Reply: {birth, then the 1-based positions of the connections that Redis does not
--         know, or that have another generation now}
--
-- This is the hottest script. Unless a connection is missing, it does little more than one ZADD
-- and the checks whether a key of the room was lost.
-- Needs room.lua.
local deadline = int(ms + ARGV[4])
keep(ms + ARGV[4])
local beats, n = {}, 0
for i = 5, #ARGV do
  beats[n + 1] = deadline
  beats[n + 2] = ARGV[i]
  n = n + 2
end
local reply = {current()}
-- CH counts changed scores. If fewer than the sent ones changed, some are missing, or
-- were renewed within this very ms.
if call('ZADD', BEATS, 'XX', 'CH', unpack(beats)) ~= #ARGV - 4 then
  local scores = call('ZMSCORE', BEATS, unpack(ARGV, 5))
  for i = 1, #scores do
    if not scores[i] then reply[#reply + 1] = i end
  end
end
audit()
return reply
