-- users.lua: what scripts share by which users come, change or leave. It stands before each
-- of them, after room.lua, and does nothing by itself.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 users HASH, 6 roster ZSET, 7 version string, 8 log STREAM
-- ARGV: those of room.lua
-- Needs room.lua.

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
    local blank = string.find(stored[at], ' ', 1, true)
    since[at], was[at] = string.sub(stored[at], 1, blank - 1), string.sub(stored[at], blank + 1)
    tail[at] = was[at]
  end
end

-- fill adds users to a roster that has lost too many: all users of a small room, else
-- some.
local function fill(online)
  local rows, cursor = {}, '0'
  repeat
    local found = call('HSCAN', USERS, cursor, 'COUNT', 1.5 * SHOWN)
    cursor = found[1]
    for i = 1, math.min(#found[2], 4 * CAP), 2 do
      rows[#rows + 1] = string.match(found[2][i + 1], '^%d+')
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

  local version, text
  version, text, birth = rise(#came, last, birth, whole, awaited)
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
  if before == #went then begin() end

  local entry, size = {'p', int(last), 'u', online, 'c', connections}, 0
  if named > NAMED and (before > CAP or online > CAP or meta > META) then
    entry[7], entry[8] = 'm', 1
  else
    for i = 1, #went do
      entry[#entry + 1] = '-'
      entry[#entry + 1] = gone[i] .. ' ' .. reason[went[i]]
      size = size + #gone[i]
    end
    for i = 1, #changed do size = size + write(entry, '~', changed[i]) end
    for i = 1, #came do size = size + write(entry, '+', came[i]) end
  end
  tell(version, text, last, entry, size, #came + #went > 0 and 1 or 0)
  return {online, connections, version, birth}, #came, #went
end
