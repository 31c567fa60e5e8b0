-- leave.lua: ends connections at once.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 why: 'left' or 'removed',
--       5.. two for each connection: id, generation ('' for any)
-- Reply: {users, connections, version, birth, for each connection 1: ended, 0: did not
--         exist, or -1: another generation has it; users gone}
-- Needs room.lua and users.lua.
local why = ARGV[4]
local ids = {}
for i = 5, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local known = call('HMGET', CONNS, unpack(ids))
local outcomes, gone, dead, left = {}, {}, {}, {}
for i = 1, #ids do
  outcomes[i] = 0
  if known[i] and not gone[ids[i]] then
    local gen, want = string.sub(known[i], 1, 4), ARGV[4 + 2 * i]
    if want == '' or want == gen then
      gone[ids[i]] = true
      outcomes[i] = 1
      dead[#dead + 1] = ids[i] .. gen
      left[#left + 1] = ids[i]
      local user = note(string.sub(known[i], 5), true)
      has[user] = has[user] - 1
      reason[user] = why
    else
      outcomes[i] = -1
    end
  end
end
look()
keep(ms)
if #left > 0 then
  call('ZREM', BEATS, unpack(dead))
  call('HDEL', CONNS, unpack(left))
end
local reply, _, went = settle()
for i = 1, #outcomes do reply[4 + i] = outcomes[i] end
reply[#reply + 1] = went
return reply
