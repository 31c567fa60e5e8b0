-- resume.lua: gives connections to the new sockets of their tabs, or renews connections
-- without a socket.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 how: 'take' or 'renew', 5 lease ms, 6.. two for each connection: id, new generation
-- Reply: {birth, then three for each connection: its generation, user, and the
--         user's value of users; all '' if the connection does not exist}
--
-- Others see no change: the connection keeps its place and its user. If a connection has a
-- socket, a renewal changes neither its generation nor its lease. A released connection gets
-- the new generation. So does one whose lease becomes shorter: by that, replicas that remember
-- the longer lease forget it.
-- Needs room.lua.
local renew, deadline = ARGV[4] == 'renew', ms + ARGV[5]
local ids = {}
for i = 6, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
keep(deadline)
local known = call('HMGET', CONNS, unpack(ids))
local reply, beats, dead, values, owners = {current()}, {}, {}, {}, {}
local scores
if renew then
  local members = {}
  for i = 1, #ids do members[i] = ids[i] .. string.sub(known[i] or '', 1, 4) end
  scores = call('ZMSCORE', BEATS, unpack(members))
end
for i = 1, #ids do
  local at = 3 * i - 1
  reply[at], reply[at + 1], reply[at + 2] = '', '', ''
  if known[i] then
    local gen, wasgen, user = ARGV[5 + 2 * i], string.sub(known[i], 1, 4), string.sub(known[i], 5)
    local shorter = renew and string.sub(wasgen, 1, 1) == HTTP and tonumber(scores[i] or 0) > deadline
    if renew and wasgen ~= RELEASED and not shorter then gen = wasgen end
    if not renew or string.sub(gen, 1, 1) == HTTP then
      beats[#beats + 1] = int(deadline)
      beats[#beats + 1] = ids[i] .. gen
    end
    if wasgen ~= gen then
      dead[#dead + 1] = ids[i] .. wasgen
      values[#values + 1] = ids[i]
      values[#values + 1] = gen .. user
    end
    reply[at], reply[at + 1] = gen, user
    owners[#owners + 1] = user
  end
end
if #beats > 0 then lease(beats) end
if #dead > 0 then
  call('ZREM', BEATS, unpack(dead))
  call('HSET', CONNS, unpack(values))
end
if #owners > 0 then
  local found, n = call('HMGET', USERS, unpack(owners)), 0
  for i = 1, #ids do
    if known[i] then
      n = n + 1
      reply[3 * i + 1] = found[n] or ''
    end
  end
end
return reply
