-- join.lua: users come in through connections, come back through them, or stay.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
--       of a restore also: 9 removed ZSET
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 how: 'join', 'put' or 'restore', 5 most users (0: no limit),
--       6.. seven for each connection: id, generation, lease ms, user, since when
--           ('' for now), name, metadata. Name and metadata begin with '=' if they
--           are to be the user's from now on, and with '?' if only for a user who is new
-- Reply: {users, connections, version, birth, then three for each connection:
--         outcome, generation, value of users of its user}
--        outcome 1: came in; 2: was there; 0: refused, the room is full;
--        -1: superseded; -2: refused, Redis is full; -3: the user was removed
--
-- A join takes over a connection that is known, with its generation; one that joins
-- as another user leaves as the one it was. A put leaves a connection of the same
-- user that has a socket with the generation of that, and its lease.
-- A restore takes nothing away from another generation: the replica speaks for a
-- socket that may be older than the one that has the connection now. It takes a
-- connection that nobody has, since its socket is gone, and one without a socket whose
-- lease ends earlier. It shortens no lease, and brings no user back who was removed
-- since the connection came.
-- Needs room.lua.
local how, limit = ARGV[4], tonumber(ARGV[5])
local put, restore = how == 'put', how == 'restore'
local FIRST, STRIDE = 6, 7
local ids, owners = {}, {}
for i = FIRST, #ARGV, STRIDE do
  ids[#ids + 1] = ARGV[i]
  owners[#owners + 1] = ARGV[i + 3]
  note(ARGV[i + 3])
end
local removed = restore and call('ZMSCORE', REMOVED, unpack(owners)) or {}
local known = call('HMGET', CONNS, unpack(ids))
local now, fresh = {}, false -- connection -> value; the same connection may come twice
for i = 1, #ids do
  if known[i] then
    now[ids[i]] = known[i]
    note(string.sub(known[i], 5), true)
  else
    fresh = true
  end
end
look()

-- Whether Redis takes more is found out by a first write that changes nothing. Users
-- who come back were let in already.
local full, tries = false, fresh and not restore
if tries then
  local tried = redis.pcall('SETRANGE', VERSION, 0, '')
  if type(tried) == 'table' and tried.err then
    if not string.find(tried.err, 'OOM', 1, true) then return tried end
    full = true
  end
end

-- longer reports whether a lease of a connection without a socket, which several
-- replicas remember, ends later than the one that is there.
local function longer(conn, wasgen, gen, deadline)
  return string.sub(wasgen, 1, 1) == HTTP and string.sub(gen, 1, 1) == HTTP
    and deadline > tonumber(call('ZSCORE', BEATS, conn .. wasgen) or 0)
end

local online = limit > 0 and count() or 0
local outcomes, generations, latest = {}, {}, ms
local beats, dead, values = {}, {}, {}
for i = 1, #ids do
  local at = FIRST + STRIDE * (i - 1)
  local conn, gen, user, name, meta = ids[i], ARGV[at + 1], ARGV[at + 3], ARGV[at + 5], ARGV[at + 6]
  local value = now[conn]
  local wasgen = value and string.sub(value, 1, 4)
  local wasuser = value and string.sub(value, 5)
  if value and restore and wasgen ~= gen and wasgen ~= RELEASED and not longer(conn, wasgen, gen, ms + ARGV[at + 2]) then
    outcomes[i] = -1
  elseif removed[i] and tonumber(ARGV[at + 4]) and tonumber(ARGV[at + 4]) <= tonumber(removed[i]) then
    outcomes[i] = -3
  elseif not value and full then
    outcomes[i] = -2
  elseif wasuser ~= user and limit > 0 and has[user] == 0 and online >= limit then
    outcomes[i] = 0
  else
    outcomes[i] = 1
    if wasuser == user then
      outcomes[i] = 2
      if put and wasgen ~= RELEASED and string.sub(wasgen, 1, 1) ~= HTTP then gen = wasgen end
    else
      if has[user] == 0 then
        online = online + 1
        if had[user] == 0 and ARGV[at + 4] ~= '' then since[user] = ARGV[at + 4] end
      end
      has[user] = has[user] + 1
      if wasuser then
        has[wasuser] = has[wasuser] - 1
        if has[wasuser] == 0 then online, reason[wasuser] = online - 1, 'left' end
      end
    end
    if not tail[user] then
      tail[user] = string.sub(name, 2)
      if #meta > 1 then tail[user] = tail[user] .. '\n' .. string.sub(meta, 2) end
    elseif string.sub(name, 1, 1) == '=' or string.sub(meta, 1, 1) == '=' then
      local line = string.find(tail[user], '\n', 1, true)
      local text = line and string.sub(tail[user], 1, line - 1) or tail[user]
      local data = line and string.sub(tail[user], line + 1) or ''
      if string.sub(name, 1, 1) == '=' then text = string.sub(name, 2) end
      if string.sub(meta, 1, 1) == '=' then data = string.sub(meta, 2) end
      tail[user] = data == '' and text or text .. '\n' .. data
    end
    if wasgen and wasgen ~= gen then dead[#dead + 1] = conn .. wasgen end
    if not put or wasgen ~= gen or string.sub(gen, 1, 1) == HTTP then
      local deadline = ms + ARGV[at + 2]
      latest = math.max(latest, deadline)
      beats[#beats + 1] = int(deadline)
      beats[#beats + 1] = conn .. gen
    end
    if wasgen ~= gen or wasuser ~= user then
      now[conn] = gen .. user
      values[#values + 1] = conn
      values[#values + 1] = now[conn]
    end
  end
  generations[i] = gen
end
keep(latest, tries and not full)
if #beats > 0 then lease(beats, restore) end
if #dead > 0 then call('ZREM', BEATS, unpack(dead)) end
if #values > 0 then call('HSET', CONNS, unpack(values)) end
local reply = settle()
for i = 1, #ids do
  local user, at = ARGV[FIRST + STRIDE * (i - 1) + 3], 2 + 3 * i
  reply[at], reply[at + 1], reply[at + 2] = outcomes[i], generations[i], since[user] and since[user] .. ' ' .. tail[user] or ''
end
return reply
