-- room.lua: what the scripts of a room share. It stands before each of them, and does
-- nothing by itself. Each call creates these functions anew, so those that only some
-- scripts need are in users.lua.
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

-- rise raises the version of the room, and returns it, the same as text, and the birth. The
-- version also serves as the users' time of arrival: each user who came gets an own number,
-- higher than all earlier ones. The arguments after came are what born returns.
local function rise(came, last, birth, whole, awaited)
  local version = math.max(last + math.max(came, 1), us)
  if birth == '' then
    birth = int(us)
    call('DEL', LOG)
  end
  local text = int(version)
  call('SET', VERSION, text .. ' ' .. birth .. (awaited and ' ' .. whole or ''), 'PX', life)
  return version, text, birth
end

-- begin sets the life of the keys when they are new: the old ones were emptied or missing.
local function begin()
  for i = 1, 6 do call('PEXPIRE', KEYS[i], life) end
end

-- tell adds an entry to the log, and publishes the version. The entry begins with 'p', the
-- version before, 'u', users, 'c', connections. size is how many bytes of it are about
-- users. names is 1 if users came or went, else 0.
local function tell(version, text, last, entry, size, names)
  local id, most = text .. '-0', math.max(1, math.min(CAP, math.floor(BULK / (size + 1))))
  local added = redis.pcall('XADD', LOG, 'NOMKSTREAM', 'MAXLEN', '~', most, id, unpack(entry))
  local anew = type(added) ~= 'string'
  if anew then -- there is no log, or its versions are of another life of the room
    call('DEL', LOG)
    call('XADD', LOG, id, unpack(entry))
  end
  if anew or math.floor(version / SPELL) ~= math.floor(last / SPELL) then call('PEXPIRE', LOG, LOGGED) end
  call(PUBLISH, CHANNEL, '{"version":' .. text .. ',"users":' .. entry[4] .. ',"connections":' .. entry[6]
    .. ',"names":' .. names .. '}')
end
