-- sweep.lua: ends connections whose leases have run out, up to a number for each call.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 most connections to remove,
--       5 held: '' to remove all that are due; else a number of ms: remove only connections
--         that were released, and whose deadline is not longer ago than this (replicas that
--         were away may still renew the rest),
--       6 ms of more time for connections without a socket that are due,
--       7 '1' for the brake: remove nothing if that were more than half of more than 20,
--       8 ms that the clock should show (0: not known), 9 by how many ms it may differ from
--         that; if it differs more, nothing is removed,
--       10 most ms for the lease of a released connection, and 11 for one with a socket;
--         later deadlines are set back to these. 10 is -1 to leave them as they are
-- Reply: {users, connections, version, birth, connections removed, users gone,
--         ms until the next deadline (-1: the room is empty), connections spared,
--         users gone whose last socket was released, ms by the clock of Redis, 1 if the
--         brake held, 1 if the clock was stepped}
-- Needs room.lua and users.lua.
audit()
local low, held = '-inf', ARGV[5] ~= ''
if held then low = '(' .. int(ms - ARGV[5]) end
local due = call('ZRANGE', BEATS, low, int(ms), 'BYSCORE', 'LIMIT', 0, ARGV[4])
local dead, ids, spared, braked = {}, {}, {}, 0
local stepped = ARGV[8] ~= '0' and math.abs(ms - ARGV[8]) > tonumber(ARGV[9])
if stepped then
  due = {}
elseif ARGV[7] == '1' and not held then
  local all = call('ZCARD', BEATS)
  if all > 20 and call('ZCOUNT', BEATS, '-inf', int(ms)) > all / 2 then
    due, braked = {}, 1
  end
end
for i = 1, #due do
  if not held and ARGV[6] ~= '0' and string.sub(due[i], -4, -4) == HTTP then
    spared[#spared + 1] = int(ms + ARGV[6])
    spared[#spared + 1] = due[i]
  elseif not held or string.sub(due[i], -4) == RELEASED then
    dead[#dead + 1] = due[i]
    ids[#ids + 1] = string.sub(due[i], 1, -5)
  end
end
if #dead > 0 then
  local known, ended = call('HMGET', CONNS, unpack(ids)), {}
  for i = 1, #ids do
    local gen = string.sub(dead[i], -4)
    if known[i] and string.sub(known[i], 1, 4) == gen then
      local user = note(string.sub(known[i], 5), true)
      has[user] = has[user] - 1
      ended[#ended + 1] = ids[i]
      reason[user] = gen == RELEASED and 'closed' or 'timeout'
    end
  end
  look()
  call('ZREM', BEATS, unpack(dead))
  if #ended > 0 then call('HDEL', CONNS, unpack(ended)) end
  keep(ms)
end
if #spared > 0 then
  keep(ms + ARGV[6])
  call('ZADD', BEATS, 'XX', unpack(spared))
end
if ARGV[10] ~= '-1' then
  local far = call('ZRANGE', BEATS, '+inf', '(' .. int(ms + ARGV[10]), 'BYSCORE', 'REV', 'LIMIT', 0, 3000, 'WITHSCORES')
  local nearer = {}
  for i = 1, #far, 2 do
    local gen = string.sub(far[i], -4)
    local most = gen == RELEASED and ARGV[10] or string.sub(gen, 1, 1) ~= HTTP and ARGV[11]
    if most and tonumber(far[i + 1]) > ms + most then
      nearer[#nearer + 1] = int(ms + most)
      nearer[#nearer + 1] = far[i]
    end
  end
  if #nearer > 0 then
    keep(ms + ARGV[11])
    call('ZADD', BEATS, 'XX', unpack(nearer))
  end
end
local reply, _, went = settle()
reply[5] = #dead
reply[6] = went
reply[7] = -1
local first = call('ZRANGE', BEATS, 0, 0, 'WITHSCORES')
if first[2] then reply[7] = math.max(0, tonumber(first[2]) - ms) end
reply[8] = #spared / 2
reply[9], reply[10], reply[11], reply[12] = 0, ms, braked, stepped and 1 or 0
for at = 1, #users do
  if had[at] > 0 and has[at] == 0 and reason[at] == 'closed' then reply[9] = reply[9] + 1 end
end
return reply
