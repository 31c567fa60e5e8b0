-- extend.lua: makes leases of connections without a socket last as long as a replica remembers.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 ms that a lease may end earlier, 5 '1' to also shorten leases that end later than
--       remembered, 6.. two for each connection: "<id><generation>", ms left
-- Reply: {birth, then the 1-based positions of the connections that Redis does not have,
--         or that have another generation now}
--
-- It writes only after an outage, or after the clock of Redis was stepped.
-- Needs room.lua.
local members = {}
for i = 6, #ARGV, 2 do members[#members + 1] = ARGV[i] end
local _, birth = born()
local reply, beats, latest = {birth}, {}, ms
local scores = call('ZMSCORE', BEATS, unpack(members))
for i = 1, #members do
  local deadline = ms + ARGV[5 + 2 * i]
  if not scores[i] then
    reply[#reply + 1] = i
  elseif deadline > scores[i] + ARGV[4] or ARGV[5] == '1' and deadline + ARGV[4] < tonumber(scores[i]) then
    latest = math.max(latest, deadline)
    beats[#beats + 1] = int(deadline)
    beats[#beats + 1] = members[i]
  end
end
audit()
if #beats > 0 then
  keep(latest)
  lease(beats)
end
return reply
