-- join.lua: users come in through connections, or come back through them.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET
-- ARGV: 1 key ttl ms, 2 publish command, 3 channel, 4 roster cap, 5 roster shown,
--       6 member ttl ms, 7 most users (0: no limit), 8 restore (1 or 0),
--       9.. four for each connection: id, generation, user id, name; to restore
--           five: also the user's place in the roster that was shown, or 0
-- Reply: {users, connections, version, one outcome for each connection}
--        outcome 1: is there; 0: refused, the room is full; -1: superseded
--
-- A connection that is known is only renewed and takes the new generation; a
-- connection that joins as another user leaves as the one it was. With restore
-- a known connection that another generation has is left alone: whoever restores
-- speaks for a socket that may be older than the one that has it now. One that
-- nobody has, since its socket is gone, is taken.
-- A full Redis refuses the first ZADD, and so the whole join, before anything was
-- done. Those who come back were counted in already: they are let in.
-- Needs prelude.lua.
local limit, restore = tonumber(ARGV[7]), ARGV[8] == '1'
local stride = restore and 5 or 4
local ids = {}
for i = 9, #ARGV, stride do
  ids[#ids + 1] = ARGV[i]
  note(ARGV[i + 2], ARGV[i + 3])
  if restore and ARGV[i + 4] ~= '0' then place[ARGV[i + 2]] = ARGV[i + 4] end
end
local known = redis.call('HMGET', KEYS[3], unpack(ids))
local now = {} -- connection -> value; the same connection may come twice
for i = 1, #ids do
  if known[i] then
    now[ids[i]] = known[i]
    local _, user, name = parts(known[i])
    note(user, name)
  end
end
look()

local online = redis.call('SCARD', KEYS[1])
local deadline = int(ms + ARGV[6])
local outcomes, beats, dead, values = {}, {}, {}, {}
for i = 1, #ids do
  local at = 9 + stride * (i - 1)
  local conn, gen, user, name = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local was = now[conn]
  local wasgen, wasuser
  if was then wasgen, wasuser = parts(was) end
  if was and restore and wasgen ~= gen and wasgen ~= RELEASED then
    outcomes[i] = -1
  elseif wasuser ~= user and limit > 0 and has[user] == 0 and online >= limit then
    outcomes[i] = 0
  else
    if wasuser ~= user then
      if has[user] == 0 then online = online + 1 end
      has[user] = has[user] + 1
      if wasuser then
        has[wasuser] = has[wasuser] - 1
        if has[wasuser] == 0 then online = online - 1 end
      end
    end
    if was and wasgen ~= gen then dead[#dead + 1] = conn .. wasgen end
    beats[#beats + 1] = deadline
    beats[#beats + 1] = conn .. gen
    local value = gen .. ' ' .. user .. ' ' .. name
    if value ~= was then
      values[#values + 1] = conn
      values[#values + 1] = value
      now[conn] = value
    end
    outcomes[i] = 1
  end
end
if restore then redis.call('PEXPIRE', KEYS[2], ARGV[1]) end
if #beats > 0 then redis.call('ZADD', KEYS[2], unpack(beats)) end
if #dead > 0 then redis.call('ZREM', KEYS[2], unpack(dead)) end
if #values > 0 then redis.call('HSET', KEYS[3], unpack(values)) end
local reply, _, _, changed = settle(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
if not changed then live(ARGV[1]) end
for i = 1, #outcomes do reply[3 + i] = outcomes[i] end
return reply
