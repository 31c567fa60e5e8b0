-- prelude.lua: what join, leave and sweep share. It is put in front of them and
-- does nothing by itself.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET

-- A value of conns is "<generation> <user id> <name>"; the generation has four
-- characters, an id has no blank. A member of beats is "<connection><generation>".
local RELEASED = '....'

local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local ms = math.floor(us / 1000)

-- Numbers that are stored are formatted here: Lua would write 1.76e+12.
local function int(x) return string.format('%.0f', x) end

-- generation, user and name of a value of conns.
local function parts(value)
  local blank = string.find(value, ' ', 6, true)
  return string.sub(value, 1, 4), string.sub(value, 6, blank - 1), string.sub(value, blank + 1)
end

-- The users that a call touches: how many connections each had and has, in the
-- order in which they were first seen, and for those who come back the place in the
-- roster that they had, lower than any version. No user is counted anywhere else.
local users, had, has, named, place = {}, {}, {}, {}, {}

-- note prepares a user for counting; look reads how many connections the users
-- noted since the last look had.
local function note(user, name)
  if not named[user] then
    named[user] = name
    users[#users + 1] = user
  end
end

local looked = 0
local function look()
  if looked == #users then return end
  local online = redis.call('SMISMEMBER', KEYS[1], unpack(users, looked + 1))
  local refs = redis.call('HMGET', KEYS[4], unpack(users, looked + 1))
  for i = 1, #online do
    local n = 0
    if online[i] == 1 then n = tonumber(refs[i] or 1) end
    local user = users[looked + i]
    had[user], has[user] = n, n
  end
  looked = #users
end

-- live gives all keys of the room ttl ms to live.
local function live(ttl)
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ttl) end
end

-- settle writes what changed of the users: who came online, who went, and the
-- reference counts of those with more than one connection. moved is the change
-- in the number of connections. If anything visible changed it raises the
-- version and publishes. Returns {users, connections, version}, how many users came
-- and went, and whether anything changed. Without a change the keys live as before.
--
-- ttl: life of the room's keys in ms; publish: PUBLISH or SPUBLISH; cap: how
-- many names the roster keeps; shown: how many are shown, below which it is
-- filled up again.
local function settle(ttl, publish, channel, cap, shown)
  local came, went, more, fewer, unlisted, changed = {}, {}, {}, {}, {}, false
  for i = 1, #users do
    local user = users[i]
    local a, b = had[user], has[user]
    if a ~= b then
      changed = true
      if a == 0 then came[#came + 1] = user end
      if b == 0 then
        went[#went + 1] = user
        unlisted[#unlisted + 1] = user .. ' ' .. named[user]
      end
      if b > 1 then
        more[#more + 1] = user
        more[#more + 1] = b
      elseif a > 1 then
        fewer[#fewer + 1] = user
      end
    end
  end
  if not changed then
    return {redis.call('SCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]), tonumber(redis.call('GET', KEYS[5]) or 0)}, 0, 0, false
  end

  if #more > 0 then redis.call('HSET', KEYS[4], unpack(more)) end
  if #fewer > 0 then redis.call('HDEL', KEYS[4], unpack(fewer)) end
  if #went > 0 then redis.call('SREM', KEYS[1], unpack(went)) end
  if #came > 0 then redis.call('SADD', KEYS[1], unpack(came)) end
  local online = redis.call('SCARD', KEYS[1])

  -- The version also numbers the roster: each user who came gets a number of
  -- their own, higher than every earlier one.
  local version = math.max(tonumber(redis.call('GET', KEYS[5]) or 0) + math.max(#came, 1), us)
  redis.call('SET', KEYS[5], int(version), 'PX', ttl)

  local listed = redis.call('ZCARD', KEYS[6])
  if #unlisted > 0 then listed = listed - redis.call('ZREM', KEYS[6], unpack(unlisted)) end
  local rows, free = {}, cap - listed
  for i = 1, #came do
    local at = place[came[i]]
    if at or free > 0 then
      rows[#rows + 1] = at or int(version - #came + i)
      rows[#rows + 1] = came[i] .. ' ' .. named[came[i]]
      free = free - 1
    end
  end
  if #rows > 0 then listed = listed + redis.call('ZADD', KEYS[6], unpack(rows)) end
  if listed < shown and listed < online then
    -- The room was larger than the roster and those listed have gone: list
    -- others, behind the ones who are still there.
    local on, fill = {}, {}
    for _, row in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do on[row] = true end
    local values
    if redis.call('HLEN', KEYS[3]) <= 4 * cap then
      values = redis.call('HVALS', KEYS[3])
    else
      values = {}
      local drawn = redis.call('HRANDFIELD', KEYS[3], 2 * cap, 'WITHVALUES')
      for i = 2, #drawn, 2 do values[#values + 1] = drawn[i] end
    end
    for i = 1, #values do
      if listed + #fill / 2 >= cap then break end
      local row = string.sub(values[i], 6)
      if not on[row] then
        on[row] = true
        fill[#fill + 1] = int(version)
        fill[#fill + 1] = row
      end
    end
    if #fill > 0 then redis.call('ZADD', KEYS[6], unpack(fill)) end
  end

  live(ttl)
  local connections = redis.call('ZCARD', KEYS[2])
  local names = 0
  if #came + #went > 0 then names = 1 end
  redis.call(publish, channel, string.format(
    '{"version":%.0f,"users":%d,"connections":%d,"names":%d}', version, online, connections, names))
  return {online, connections, version}, #came, #went, true
end
