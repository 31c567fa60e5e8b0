-- leave.lua: connections end at once.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET
-- ARGV: 1 key ttl ms, 2 publish command, 3 channel, 4 roster cap, 5 roster shown,
--       6.. two for each connection: id, generation ('' for whichever has it)
-- Reply: {users, connections, version, 1 or 0 for each connection: it ended or was not there}
-- Needs prelude.lua.
local ids = {}
for i = 6, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local known = redis.call('HMGET', KEYS[3], unpack(ids))
local outcomes, gone, dead, left = {}, {}, {}, {}
for i = 1, #ids do
  outcomes[i] = 0
  if known[i] and not gone[ids[i]] then
    local gen, user, name = parts(known[i])
    local want = ARGV[5 + 2 * i]
    if want == '' or want == gen then
      gone[ids[i]] = true
      outcomes[i] = 1
      dead[#dead + 1] = ids[i] .. gen
      left[#left + 1] = ids[i]
      note(user, name)
      known[i] = user
    end
  end
end
look()
for i = 1, #ids do
  if outcomes[i] == 1 then has[known[i]] = has[known[i]] - 1 end
end
if #left > 0 then
  redis.call('ZREM', KEYS[2], unpack(dead))
  redis.call('HDEL', KEYS[3], unpack(left))
end
local reply = settle(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
for i = 1, #outcomes do reply[3 + i] = outcomes[i] end
return reply
