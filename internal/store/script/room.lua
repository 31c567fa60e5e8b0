-- room.lua: what the scripts of a room share. It stands before each of them, and does
-- nothing by itself.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH,
--       6 roster ZSET, 7 version string, 8 log STREAM; for some scripts also 9 removed ZSET
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease;
--       each script's own arguments begin at 4
local ONLINE, BEATS, CONNS, REFS, USERS, ROSTER, VERSION, LOG, REMOVED = unpack(KEYS)
local PUBLISH, CHANNEL, SPARE = ARGV[1], ARGV[2], tonumber(ARGV[3])

local CAP = 256 -- most users in the roster, and about as many entries in the log
local SHOWN = 100 -- users that a page shows; a roster with fewer is filled up again
local NAMED = 64 -- most users that an entry of the log names in a room of more than CAP users
local META = 4096 -- with more bytes of metadata an entry is treated like one of such a room
local BULK = 131072 -- most bytes of entries of the same size that the log holds
local LOGGED = 130000 -- ms that the log lives: 2 minutes after the last change, and one spell
local SPELL = 10000000 -- us in which the log's life is renewed only once

-- A value of conns is "<generation><user>", and a member of beats is
-- "<connection><generation>"; a generation has four characters. A value of users is
-- "<since> <name>". If there are metadata, a line feed and the metadata follow. The
-- metadata of a guest begin with a blank, and may be {}.
local RELEASED = '....' -- the generation of a connection whose socket is gone
local HTTP = '~' -- begins the generation of a connection that has no socket
local GUEST = ' ' -- begins the metadata of a guest

local call = redis.call
local time = call('TIME')
local us = time[1] * 1000000 + time[2]
local ms = math.floor(us / 1000)

-- int formats a number to be stored. Lua itself would write 1.76e+12.
local function int(x) return string.format('%d', x) end

-- split takes a value of users apart: since, and name with metadata.
local function split(value)
  local blank = string.find(value, ' ', 1, true)
  return string.sub(value, 1, blank - 1), string.sub(value, blank + 1)
end

-- keep makes the keys outlive a lease that ends at deadline. Unless the script has
-- written before, keep is its first write: a full Redis refuses only the first one, and
-- never this one. It reads the life of the version key for that of all keys.
local life
local function keep(deadline, written)
  local need = deadline - ms + SPARE
  life = call('PTTL', VERSION)
  if life < need - SPARE / 4 then
    life = need
    for i = 1, 7 do call('PEXPIRE', KEYS[i], life) end
  elseif not written then
    call('PEXPIRE', VERSION, life)
  end
end

-- lease writes leases, {deadline, member, ...}, after keep. leased is the number of
-- leases afterwards.
local leased
local function lease(beats, longer)
  if longer then
    call('ZADD', BEATS, 'GT', unpack(beats))
  else
    call('ZADD', BEATS, unpack(beats))
  end
  leased = call('ZCARD', BEATS)
  if leased <= #beats / 2 then call('PEXPIRE', BEATS, life) end -- the key is new
end

-- counted is how many users were online before the script changed that. entered is how
-- many the script has added to ONLINE before settle.
local counted, entered
local function count()
  counted = counted or call('SCARD', ONLINE)
  return counted
end

-- born returns the version and birth of the room, 0 and '' if it has none. For a damaged
-- room that began anew it also returns the time at which replicas will have put back its
-- members, else '', and whether that time is still to come. If the clock was stepped back
-- to before the birth, it is not.
local function born()
  local version, birth, whole = string.match(call('GET', VERSION) or '', '^(%d+) (%d+) ?(%d*)$')
  if not version then return 0, '', '', false end
  local awaited = whole ~= '' and us >= tonumber(birth) and us < tonumber(whole)
  return tonumber(version), birth, whole, awaited
end

-- current returns the birth of the room, after keep. It removes the time that follows the
-- birth once that time has passed: a clock that is stepped back later would show it
-- again.
local function current()
  local version, birth, whole, awaited = born()
  if whole ~= '' and not awaited then call('SET', VERSION, int(version) .. ' ' .. birth, 'KEEPTTL') end
  return birth
end

-- damaged ends the script: the keys are not as scripts leave them.
local function damaged(what) error({err = 'ERR script: damaged room: ' .. what}) end

-- complete ends the script while replicas are putting back the members of a damaged room.
local function complete()
  local _, _, _, awaited = born()
  if awaited then damaged('not all are put back yet') end
end

-- audit ends the script if the sizes of the keys do not fit together. Scripts leave them
-- so that they do. If a key was evicted, deleted or changed by hand, audit finds that.
local function audit()
  local n, m = call('HLEN', USERS), call('HLEN', CONNS)
  if call('SCARD', ONLINE) ~= n or call('ZCARD', BEATS) ~= m then damaged('counts differ') end
  if (m > n) ~= (call('HLEN', REFS) > 0) then damaged('references') end
  if n > 0 and call('EXISTS', VERSION) == 0 then damaged('no version') end
  if call('ZCARD', ROSTER) < math.min(n, n > CAP and SHOWN or CAP) then damaged('roster') end
end

-- The users that a call touches, in the order in which they were first seen. The other
-- lists hold, at the same position, what is known of a user: the number of connections
-- before and after, the value of users (taken apart only if needed), the time of arrival,
-- name and metadata before and after, and why the user leaves. Users are counted here
-- only.
local users, position = {}, {}
local had, has, stored, since, was, tail, reason = {}, {}, {}, {}, {}, {}, {}

-- note returns the position of a user. there says that a connection of the user was
-- found. look reads what Redis has of the users that were noted since the last look. What
-- the script has already put into has by then is what the call adds.
local looked, expected = 0, {}
local function note(user, there)
  local at = position[user]
  if not at then
    at = #users + 1
    users[at], position[user], had[at], has[at] = user, at, 0, 0
  end
  if there then expected[at] = true end
  return at
end

local function look()
  if looked == #users then return end
  local values, there = call('HMGET', USERS, unpack(users, looked + 1)), nil
  for i = 1, #values do
    local at = looked + i
    stored[at] = values[i]
    if values[i] then
      there = there or {}
      there[#there + 1] = users[at]
    elseif expected[at] then
      damaged('a connection without its user')
    end
  end
  looked = #users
  if not there then return end
  local refs = call('EXISTS', REFS) == 1 and call('HMGET', REFS, unpack(there))
  for i = 1, #there do
    local at, n = position[there[i]], refs and tonumber(refs[i] or 1) or 1
    had[at], has[at] = n, has[at] + n
  end
end

-- open takes apart the value that look has read for a user.
local function open(at)
  if stored[at] and not since[at] then
    since[at], was[at] = split(stored[at])
    tail[at] = was[at]
  end
end

-- fill adds users to a roster that has lost too many: all users of a small room, else
-- some.
local function fill(online)
  local rows, cursor = {}, '0'
  repeat
    local found = call('HSCAN', USERS, cursor, 'COUNT', CAP / 2)
    cursor = found[1]
    for i = 1, math.min(#found[2], 4 * CAP), 2 do
      rows[#rows + 1] = split(found[2][i + 1])
      rows[#rows + 1] = found[2][i]
    end
  until cursor == '0' or online > CAP and #rows >= 3 * SHOWN
  call('ZADD', ROSTER, unpack(rows))
  call('ZREMRANGEBYRANK', ROSTER, CAP, -1)
  call('PEXPIRE', ROSTER, life)
end

-- write adds a user who changed to entry, with a sign, and returns by how much the entry
-- grew.
local function write(entry, sign, at)
  open(at)
  local user, text = users[at], since[at] .. ' ' .. tail[at]
  entry[#entry + 1] = sign
  entry[#entry + 1] = user .. ' ' .. has[at] .. ' ' .. text
  return #user + #text
end

-- settle writes what became of the users. If anything has changed that others see, it
-- raises the version, adds an entry to the log, and publishes a message. It returns
-- {users, connections, version, birth}, and how many users came and went. Call keep
-- before.
local function settle()
  local came, went, changed, more, fewer = {}, {}, {}, {}, {}
  for at = 1, #users do
    local a, b = had[at], has[at]
    if a == 0 and b > 0 then
      came[#came + 1] = at
    elseif a > 0 and b == 0 then
      went[#went + 1] = at
    elseif b > 0 and (a ~= b or tail[at] ~= was[at]) then
      changed[#changed + 1] = at
    end
    if b > 1 and a ~= b then
      more[#more + 1] = users[at]
      more[#more + 1] = b
    elseif a > 1 and b < 2 then
      fewer[#fewer + 1] = users[at]
    end
  end
  local before = count()
  local connections = leased or call('ZCARD', BEATS)
  local last, birth, whole, awaited = born()
  local named = #came + #went + #changed
  if named == 0 then return {before, connections, last, birth}, 0, 0 end

  -- The version also serves as the users' time of arrival. Each user who came gets an own
  -- number, higher than all earlier ones.
  local version = math.max(last + math.max(#came, 1), us)
  if birth == '' then
    birth = int(us)
    call('DEL', LOG)
  end
  local text = int(version)
  call('SET', VERSION, text .. ' ' .. birth .. (awaited and ' ' .. whole or ''), 'PX', life)

  local online = before
  if #more > 0 then
    call('HSET', REFS, unpack(more))
    call('PEXPIRE', REFS, life)
  end
  if #fewer > 0 then call('HDEL', REFS, unpack(fewer)) end
  local gone = {}
  for i = 1, #went do gone[i] = users[went[i]] end
  if #went > 0 then
    online = online - call('SREM', ONLINE, unpack(gone))
    call('HDEL', USERS, unpack(gone))
    call('ZREM', ROSTER, unpack(gone))
  end
  -- A user who comes into a large room is added to the roster when others of the roster
  -- have gone. A user who comes back has a place.
  local values, new, rows, meta = {}, {}, {}, 0
  for i = 1, #came do
    local at = came[i]
    local back = since[at]
    if not back then since[at] = i == #came and text or int(version - #came + i) end
    new[i] = users[at]
    if back or before < CAP then
      rows[#rows + 1] = since[at]
      rows[#rows + 1] = new[i]
    end
    values[2 * i - 1], values[2 * i] = new[i], since[at] .. ' ' .. tail[at]
  end
  if entered then
    online = online + entered
  elseif #came > 0 then
    online = online + call('SADD', ONLINE, unpack(new))
  end
  for i = 1, #changed do
    local at = changed[i]
    if tail[at] ~= was[at] then
      values[#values + 1] = users[at]
      values[#values + 1] = since[at] .. ' ' .. tail[at]
    end
  end
  for i = 2, #values, 2 do
    local line = string.find(values[i], '\n', 1, true)
    if line then meta = meta + #values[i] - line end
  end
  if #values > 0 then call('HSET', USERS, unpack(values)) end
  if #rows > 0 then
    call('ZADD', ROSTER, unpack(rows))
    if online > CAP then call('ZREMRANGEBYRANK', ROSTER, CAP, -1) end
  end
  if #went > 0 then
    local listed = call('ZCARD', ROSTER)
    if listed < online and (online <= CAP or listed < SHOWN) then fill(online) end
  end
  if before == #went then -- the old keys were emptied or missing, so these are new
    for i = 1, 6 do call('PEXPIRE', KEYS[i], life) end
  end

  local entry, most = {'p', int(last), 'u', online, 'c', connections}, CAP
  if named > NAMED and (before > CAP or online > CAP or meta > META) then
    entry[7], entry[8] = 'm', 1
  else
    local size = 0
    for i = 1, #went do
      entry[#entry + 1] = '-'
      entry[#entry + 1] = gone[i] .. ' ' .. reason[went[i]]
      size = size + #gone[i]
    end
    for i = 1, #changed do size = size + write(entry, '~', changed[i]) end
    for i = 1, #came do size = size + write(entry, '+', came[i]) end
    most = math.max(1, math.min(CAP, math.floor(BULK / (size + 1))))
  end
  local id = text .. '-0'
  local added = redis.pcall('XADD', LOG, 'NOMKSTREAM', 'MAXLEN', '~', most, id, unpack(entry))
  local anew = type(added) ~= 'string'
  if anew then -- there is no log, or its versions are of another life of the room
    call('DEL', LOG)
    call('XADD', LOG, id, unpack(entry))
  end
  if anew or math.floor(version / SPELL) ~= math.floor(last / SPELL) then call('PEXPIRE', LOG, LOGGED) end

  call(PUBLISH, CHANNEL, '{"version":' .. text .. ',"users":' .. online .. ',"connections":' .. connections
    .. ',"names":' .. (#came + #went > 0 and 1 or 0) .. '}')
  return {online, connections, version, birth}, #came, #went
end
