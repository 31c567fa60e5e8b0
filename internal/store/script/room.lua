-- room.lua: the life of a room. It stands before every script that has to do with
-- one, and does nothing by itself.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH,
--       6 roster ZSET, 7 version string, 8 log STREAM; of those that say so, 9 removed ZSET
-- ARGV: 1 publish command, 2 channel, 3 ms that keys outlive the latest lease;
--       those of the script follow from 4
local ONLINE, BEATS, CONNS, REFS, USERS, ROSTER, VERSION, LOG, REMOVED = unpack(KEYS)
local PUBLISH, CHANNEL, SPARE = ARGV[1], ARGV[2], tonumber(ARGV[3])

local CAP = 256 -- users in the roster, all of a room that has no more, and entries in the log
local SHOWN = 100 -- users that a page shows: a roster of fewer is filled up again
local NAMED = 64 -- users whom an entry of the log names in a larger room
local META = 4096 -- bytes of metadata beyond which an entry counts as of a larger room
local BULK = 131072 -- bytes of entries of one size that the log holds
local LOGGED = 120000 -- ms that the log outlives the last change

-- A value of conns is "<generation><user>", a member of beats is
-- "<connection><generation>"; a generation has four characters. A value of users
-- is "<since> <name>", and after a line feed the metadata, if there are any.
local RELEASED = '....' -- the generation of a connection whose socket is gone
local HTTP = '~' -- begins the generation of a connection that has no socket

local call = redis.call
local time = call('TIME')
local us = time[1] * 1000000 + time[2]
local ms = math.floor(us / 1000)

-- Numbers that are stored are formatted here: Lua would write 1.76e+12.
local function int(x) return string.format('%.0f', x) end

-- since, and name with metadata, of a value of users.
local function split(value)
  local blank = string.find(value, ' ', 1, true)
  return string.sub(value, 1, blank - 1), string.sub(value, blank + 1)
end

-- keep has the keys outlive a lease that ends at deadline. Unless something has been
-- written already, it is the first write of a script: a Redis that is full refuses only
-- the first, and this one never. The life of the version stands for that of all keys.
local life
local function keep(deadline, written)
  local need = deadline - ms + SPARE
  life = call('PTTL', VERSION)
  if life < need - SPARE / 4 then
    life = need
    for i = 1, 7 do call('PEXPIRE', KEYS[i], int(life)) end
  elseif not written then
    call('PEXPIRE', VERSION, int(life))
  end
end

-- lease writes leases, {deadline, member, ...}, after keep.
local function lease(beats, longer)
  if longer then
    call('ZADD', BEATS, 'GT', unpack(beats))
  else
    call('ZADD', BEATS, unpack(beats))
  end
  call('PEXPIRE', BEATS, int(life)) -- it is new if it was lost
end

-- how many users are online, before the script changes that.
local counted
local function count()
  counted = counted or call('SCARD', ONLINE)
  return counted
end

-- version and birth of the room; 0 and '' for one that is not there.
local function born()
  local version, birth = string.match(call('GET', VERSION) or '', '^(%d+) (%d+)$')
  return tonumber(version or 0), birth or ''
end

-- damaged ends the script: the keys are not what scripts left.
local function damaged(what) error({err = 'ERR script: damaged room: ' .. what}) end

-- audit ends the script unless the sizes of the keys fit together. Scripts leave them so;
-- a key that was evicted or deleted, or changed by hand, shows here.
local function audit()
  local n, m = call('HLEN', USERS), call('HLEN', CONNS)
  if call('SCARD', ONLINE) ~= n or call('ZCARD', BEATS) ~= m then damaged('counts differ') end
  if (m > n) ~= (call('EXISTS', REFS) == 1) then damaged('references') end
  if n > 0 and call('EXISTS', VERSION) == 0 then damaged('no version') end
  if call('ZCARD', ROSTER) < math.min(n, n > CAP and SHOWN or CAP) then damaged('roster') end
end

-- The users that a call touches, in the order in which they were first seen: how
-- many connections each had and has, since when, name and metadata as they were and
-- as they will be, and why a user leaves. No user is counted anywhere else.
local users, had, has, since, was, tail, reason = {}, {}, {}, {}, {}, {}, {}

-- note prepares a user for counting; there says that a connection of the user's was
-- found. look reads what is known of the users noted since the last look.
local looked, expected = 0, {}
local function note(user, there)
  if not had[user] then
    had[user], has[user] = 0, 0
    users[#users + 1] = user
  end
  if there then expected[user] = true end
end

local function look()
  if looked == #users then return end
  local values, there = call('HMGET', USERS, unpack(users, looked + 1)), {}
  for i = 1, #values do
    if values[i] then
      local user = users[looked + i]
      since[user], was[user] = split(values[i])
      tail[user] = was[user]
      there[#there + 1] = user
    elseif expected[users[looked + i]] then
      damaged('a connection without its user')
    end
  end
  looked = #users
  if #there == 0 then return end
  local refs = call('HMGET', REFS, unpack(there))
  for i = 1, #there do
    local n = tonumber(refs[i] or 1)
    had[there[i]], has[there[i]] = n, n
  end
end

-- fill lists more users in a roster that has lost too many, and returns how many
-- there are: all users of a room that is small enough, else some.
local function fill()
  local values
  if call('HLEN', USERS) <= 4 * CAP then
    values = call('HGETALL', USERS)
  else
    values = call('HRANDFIELD', USERS, 2 * CAP, 'WITHVALUES')
  end
  local rows = {}
  for i = 1, #values, 2 do
    rows[i] = split(values[i + 1])
    rows[i + 1] = values[i]
  end
  call('ZADD', ROSTER, unpack(rows))
  call('ZREMRANGEBYRANK', ROSTER, CAP, -1)
  call('PEXPIRE', ROSTER, int(life))
end

-- settle writes what became of the users, and tells everybody if anything changed
-- that they see: the version rises, the log gets an entry, and a message goes out.
-- Returns {users, connections, version, birth} and how many users came and went.
-- keep has been called.
local function settle()
  local came, went, changed, more, fewer = {}, {}, {}, {}, {}
  for i = 1, #users do
    local user = users[i]
    local a, b = had[user], has[user]
    if a == 0 and b > 0 then
      came[#came + 1] = user
    elseif a > 0 and b == 0 then
      went[#went + 1] = user
    elseif b > 0 and (a ~= b or tail[user] ~= was[user]) then
      changed[#changed + 1] = user
    end
    if a ~= b then
      if b > 1 then
        more[#more + 1] = user
        more[#more + 1] = b
      elseif a > 1 then
        fewer[#fewer + 1] = user
      end
    end
  end
  local before = count()
  local connections = call('ZCARD', BEATS)
  local last, birth = born()
  if #came + #went + #changed == 0 then return {before, connections, last, birth}, 0, 0 end

  -- The version also says since when users are there: each who came gets a number of
  -- their own, higher than every earlier one.
  local version = math.max(last + math.max(#came, 1), us)
  if birth == '' then
    birth = int(us)
    call('DEL', LOG)
  end
  call('SET', VERSION, int(version) .. ' ' .. birth, 'PX', int(life))

  local online, named = before, #came + #went + #changed
  local entry, meta, size = {'p', int(last), 'u', 0, 'c', connections}, 0, 0
  local values, rows, back = {}, {}, false
  if #more > 0 then
    call('HSET', REFS, unpack(more))
    call('PEXPIRE', REFS, int(life))
  end
  if #fewer > 0 then call('HDEL', REFS, unpack(fewer)) end
  if #went > 0 then
    online = online - call('SREM', ONLINE, unpack(went))
    call('HDEL', USERS, unpack(went))
    call('ZREM', ROSTER, unpack(went))
    for i = 1, #went do
      entry[#entry + 1] = '-'
      entry[#entry + 1] = went[i] .. ' ' .. reason[went[i]]
      size = size + #went[i]
    end
  end
  if #came > 0 then online = online + call('SADD', ONLINE, unpack(came)) end
  for i = 1, #changed + #came do
    local user, sign = changed[i], '~'
    if not user then
      user, sign = came[i - #changed], '+'
      if since[user] then back = true else since[user] = int(version - #came + i - #changed) end
      rows[#rows + 1] = since[user]
      rows[#rows + 1] = user
    end
    local value = since[user] .. ' ' .. tail[user]
    if tail[user] ~= was[user] then
      values[#values + 1] = user
      values[#values + 1] = value
      local at = string.find(value, '\n', 1, true)
      if at then meta = meta + #value - at end
    end
    entry[#entry + 1] = sign
    entry[#entry + 1] = user .. ' ' .. has[user] .. ' ' .. value
    size = size + #user + #value
  end
  if #values > 0 then call('HSET', USERS, unpack(values)) end
  -- Who comes into a large room is listed when others there have gone; who comes back
  -- has a place.
  if #rows > 0 and (back or before < CAP) then
    call('ZADD', ROSTER, unpack(rows))
    if online > CAP then call('ZREMRANGEBYRANK', ROSTER, CAP, -1) end
  end
  if #went > 0 then
    local listed = call('ZCARD', ROSTER)
    if listed < online and (online <= CAP or listed < SHOWN) then fill() end
  end
  if before == 0 then
    for i = 1, 6 do call('PEXPIRE', KEYS[i], int(life)) end
  end

  entry[4] = online
  if named > NAMED and (before > CAP or online > CAP or meta > META) then
    entry, size = {'p', int(last), 'u', online, 'c', connections, 'm', 1}, 0
  end
  local most = math.max(1, math.min(CAP, math.floor(BULK / (size + 1))))
  local id = int(version) .. '-0'
  local added = redis.pcall('XADD', LOG, 'MAXLEN', '~', most, id, unpack(entry))
  if type(added) == 'table' and added.err then -- it holds versions of another life of the room
    call('DEL', LOG)
    call('XADD', LOG, id, unpack(entry))
  end
  call('PEXPIRE', LOG, LOGGED)

  local names = #came + #went > 0 and 1 or 0
  call(PUBLISH, CHANNEL, string.format(
    '{"version":%.0f,"users":%d,"connections":%d,"names":%d}', version, online, connections, names))
  return {online, connections, version, birth}, #came, #went
end
