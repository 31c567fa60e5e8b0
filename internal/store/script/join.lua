-- join.lua: users come in through connections, come back through them, or stay.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
--       a restore also needs 9 removed ZSET
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease,
--       4 how: 'join', 'attend', 'put' or 'restore', 5 most users (0: no limit), 6 lease ms of a join,
--       7.. for each connection: id, generation, user, name. In a join, the name may go on with
--           a line feed and the metadata for a new user, and the next argument is the
--           generation that it follows ('' for none, '*' for any). Otherwise the next ones are:
--           lease ms, the user's time of arrival ('' for now), metadata, and what of both also
--           replaces that of a user who is present: 'n' for the name, 'm' for the metadata. In
--           a restore, 's' says that the browser has just answered through a socket. The name
--           of a join always replaces that of the user
-- Reply: {users, connections, version, birth, then for each connection its outcome and,
--         except for a join, its generation and the user's value of users;
--         number of users who have gone, because their connection now has another user}
--        outcome 1: came in; 2: was there; 0: refused, the room is full;
--        -1: superseded; -2: refused, Redis is full; -3: the user was removed. A join has
--        the user's time of arrival, as text, in the place of 1 and 2
--
-- A join takes over an existing connection and gives it its generation; if the connection had
-- another user, that user leaves. A join takes nothing from a generation that it does not
-- follow, since nothing here tells which of a tab's two sockets is newer.
--
-- Attend is a join with the arguments of a put, and follows any generation.
--
-- If a connection of the same user has a socket, a put leaves it the socket's generation and
-- lease. All other existing connections that are put or attended get another generation than
-- the given one. So a caller who does not get the reply can end what the call brought in by
-- the given generation, and this does not end a user who was there before.
--
-- A restore takes nothing from another generation: the replica may speak for a socket that is
-- older than the connection's present one. It takes over a released connection. It also takes
-- one without a socket, if that one's lease ends earlier or the browser has just answered
-- through a socket: the replica that remembers the connection without a socket does not know
-- that it now has one elsewhere. A restore shortens no lease, and does not bring back a user who
-- was removed after the connection came.
-- Needs room.lua, newcomers.lua and users.lua.
now = now or {}
local at = {} -- the positions of the users of the connections
for i = 1, #ids do at[i] = note(owners[i]) end
local removed = restore and call('ZMSCORE', REMOVED, unpack(users)) or {} -- at the positions of the users
for i = 1, #ids do
  if known[i] then note(string.sub(known[i], 5), true) end
end
look()
for i = 1, #users do open(i) end

-- longer reports whether the lease of a connection without a socket ends later than the
-- present one. Several replicas may remember such a connection.
local function longer(conn, wasgen, gen, deadline)
  return string.sub(wasgen, 1, 1) == HTTP and string.sub(gen, 1, 1) == HTTP
    and deadline > tonumber(call('ZSCORE', BEATS, conn .. wasgen) or 0)
end

-- answered reports whether a connection that is stored without a socket has one, because
-- the browser has just answered through it.
local function answered(wasgen, sets)
  return string.sub(wasgen, 1, 1) == HTTP and string.find(sets, 's', 1, true)
end

-- marked returns metadata that replace others. If the others had the mark of a guest, it
-- keeps the mark.
local function marked(was, meta)
  if string.sub(was, 1, 1) ~= GUEST or string.sub(meta, 1, 1) == GUEST then return meta end
  return GUEST .. (meta == '' and '{}' or meta)
end

local online = limit > 0 and count() or 0
local outcomes, generations, latest = {}, {}, ms
local beats, dead, values = {}, {}, {}
local deadline, lease_ms = int(ms + ARGV[6]), tonumber(ARGV[6])
for i = 1, #ids do
  local arg = FIRST + STRIDE * (i - 1)
  local conn, gen, me, name = ids[i], ARGV[arg + 1], at[i], ARGV[arg + 3]
  local given, meta, sets, follows = '', '', 'n', nil
  if join then
    follows = ARGV[arg + 4]
    local line = string.find(name, '\n', 1, true)
    if line then
      meta = string.sub(name, line + 1)
      name = string.sub(name, 1, line - 1)
    end
  else
    lease_ms, given, meta, sets = tonumber(ARGV[arg + 4]), ARGV[arg + 5], ARGV[arg + 6], ARGV[arg + 7]
    deadline = int(ms + lease_ms)
  end
  local value, wasgen, them = now[conn], nil, nil
  if value then wasgen, them = string.sub(value, 1, 4), position[string.sub(value, 5)] end
  if value and restore and wasgen ~= gen and wasgen ~= RELEASED and not answered(wasgen, sets)
    and not longer(conn, wasgen, gen, ms + lease_ms) then
    outcomes[i] = -1
  elseif value and join and follows ~= '*' and wasgen ~= follows and wasgen ~= gen then
    outcomes[i] = -1
  elseif removed[me] and given ~= '' and tonumber(given) <= tonumber(removed[me]) then
    outcomes[i] = -3
  elseif not value and full then
    outcomes[i] = -2
  elseif them ~= me and limit > 0 and has[me] == 0 and online >= limit then
    outcomes[i] = 0
  else
    outcomes[i] = 1
    if them == me then
      outcomes[i] = 2
      if put and wasgen ~= RELEASED and string.sub(wasgen, 1, 1) ~= HTTP then
        gen = wasgen
      elseif put or how == 'attend' then
        gen = string.sub(gen, 1, 1) .. string.sub(gen, 3) .. string.sub(gen, 2, 2)
      end
    else
      if has[me] == 0 then
        online = online + 1
        if had[me] == 0 and given ~= '' then since[me] = given end
      end
      has[me] = has[me] + 1
      if them then
        has[them] = has[them] - 1
        if has[them] == 0 then online, reason[them] = online - 1, 'left' end
      end
    end
    local old = tail[me]
    if not old then
      tail[me] = meta == '' and name or name .. '\n' .. meta
    elseif sets ~= '' and old ~= name then
      local line = string.find(old, '\n', 1, true)
      local text, data = old, ''
      if line then text, data = string.sub(old, 1, line - 1), string.sub(old, line + 1) end
      if string.find(sets, 'n', 1, true) then text = name end
      if string.find(sets, 'm', 1, true) then data = marked(data, meta) end
      tail[me] = data == '' and text or text .. '\n' .. data
    elseif string.find(sets, 'm', 1, true) and meta ~= '' then
      tail[me] = name .. '\n' .. meta
    end
    if wasgen and wasgen ~= gen then dead[#dead + 1] = conn .. wasgen end
    if not put or wasgen ~= gen or string.sub(gen, 1, 1) == HTTP then
      latest = math.max(latest, ms + lease_ms)
      beats[#beats + 1] = deadline
      beats[#beats + 1] = conn .. gen
    end
    if wasgen ~= gen or them ~= me then
      now[conn] = gen .. users[me]
      values[#values + 1] = conn
      values[#values + 1] = now[conn]
    end
  end
  if not join then generations[i] = gen end
end
keep(latest, tries and not full)
if #dead > 0 then call('ZREM', BEATS, unpack(dead)) end
if #beats > 0 then lease(beats, restore) end
if #values > 0 then call('HSET', CONNS, unpack(values)) end
local reply, _, went = settle()
for i = 1, #ids do
  local me = at[i]
  if join then
    reply[4 + i] = outcomes[i] > 0 and since[me] or outcomes[i]
  else
    local n = 2 + 3 * i
    reply[n], reply[n + 1], reply[n + 2] = outcomes[i], generations[i], since[me] and since[me] .. ' ' .. tail[me] or ''
  end
end
reply[#reply + 1] = went
return reply
