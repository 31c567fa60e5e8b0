-- newcomers.lua: new users come in. It is the first part of a join, and ends the script if
-- all who join are new.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: those of join.lua
-- Reply: that of join.lua
-- Needs room.lua.
local how, limit = ARGV[4], tonumber(ARGV[5])
local join, put, restore = how == 'join', how == 'put', how == 'restore'
local FIRST, STRIDE = 7, join and 5 or 8
local ids, owners = {}, {} -- the connections, and their users
for i = FIRST, #ARGV, STRIDE do
  local n = #ids + 1
  ids[n], owners[n] = ARGV[i], ARGV[i + 2]
end
local known = call('HMGET', CONNS, unpack(ids))
local now, fresh = nil, false -- connection -> value; a connection may occur twice
for i = 1, #ids do
  if known[i] then
    now = now or {}
    now[ids[i]] = known[i]
  else
    fresh = true
  end
end
-- A first write finds out whether Redis accepts more data. Users who come back have been
-- accepted already. If only newcomers ask and there is room for all, that write adds them
-- to ONLINE.
local full, tries = false, fresh and not restore
if tries then
  local tried
  if join and not now and (limit == 0 or count() + #ids <= limit) then
    count()
    tried = redis.pcall('SADD', ONLINE, unpack(owners))
    entered = tried
  else
    tried = redis.pcall('SETRANGE', VERSION, 0, '')
  end
  if type(tried) == 'table' and tried.err then
    if not string.find(tried.err, 'OOM', 1, true) then return tried end
    full, entered = true, nil
  end
end

-- Nearly always each of them is a new user with one connection. Then this does what join.lua
-- and settle do, but has nothing to look up or to compare. No connection occurs twice in a
-- call for joins.
local n = #ids
if entered == n and (n <= NAMED or count() + n > CAP) then
  local before, deadline = count(), int(ms + ARGV[6])
  local online, listed, named = before + n, before < CAP, n <= NAMED
  keep(ms + ARGV[6], true)
  local last, birth, whole, awaited = born()
  local version, text
  version, text, birth = rise(n, last, birth, whole, awaited)
  local beats, conns, values, rows, size = {}, {}, {}, {}, 0
  local reply, entry = {online, 0, version, birth}, {'p', int(last), 'u', online, 'c', 0}
  if not named then entry[7], entry[8] = 'm', 1 end
  for i = 1, n do
    local arg, o, user = FIRST + STRIDE * (i - 1), 2 * i, owners[i]
    local since = i == n and text or int(version - n + i)
    local gen, value = ARGV[arg + 1], since .. ' ' .. ARGV[arg + 3]
    reply[4 + i] = since
    beats[o - 1], beats[o] = deadline, ids[i] .. gen
    conns[o - 1], conns[o] = ids[i], gen .. user
    values[o - 1], values[o] = user, value
    if listed then rows[o - 1], rows[o] = since, user end
    if named then
      entry[5 + o], entry[6 + o] = '+', user .. ' 1 ' .. value
      size = size + #user + #value
    end
  end
  lease(beats)
  reply[2], entry[6] = leased, leased
  call('HSET', CONNS, unpack(conns))
  call('HSET', USERS, unpack(values))
  if listed then
    call('ZADD', ROSTER, unpack(rows))
    if online > CAP then call('ZREMRANGEBYRANK', ROSTER, CAP, -1) end
  end
  if before == 0 then begin() end
  tell(version, text, last, entry, size, 1)
  reply[5 + n] = 0
  return reply
end
