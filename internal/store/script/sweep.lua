-- sweep.lua: connections whose lease has run out end, a bounded number a call.
-- KEYS: 1 online SET, 2 beats ZSET, 3 conns HASH, 4 refs HASH, 5 version, 6 roster ZSET
-- ARGV: 1 key ttl ms, 2 publish command, 3 channel, 4 roster cap, 5 roster shown,
--       6 most connections to remove,
--       7 held: '' to remove all that is due; else a number of ms: remove only
--         connections that were released, and with a deadline later than so
--         many ms ago (the rest may still be renewed by whoever was away),
--       8 ms for which connections without a socket that are due are spared
-- Reply: {users, connections, version, connections removed, users gone,
--         ms until the next deadline (-1: nobody is left), connections spared}
-- Needs prelude.lua.
local low, held = '-inf', ARGV[7] ~= ''
if held then low = '(' .. int(ms - ARGV[7]) end
local due = redis.call('ZRANGE', KEYS[2], low, int(ms), 'BYSCORE', 'LIMIT', 0, ARGV[6])
local dead, ids, spared = {}, {}, {}
for i = 1, #due do
  if not held and ARGV[8] ~= '0' and string.sub(due[i], -4, -4) == '~' then
    spared[#spared + 1] = int(ms + ARGV[8])
    spared[#spared + 1] = due[i]
  elseif not held or string.sub(due[i], -4) == RELEASED then
    dead[#dead + 1] = due[i]
    ids[#ids + 1] = string.sub(due[i], 1, -5)
  end
end
if #dead > 0 then
  local known = redis.call('HMGET', KEYS[3], unpack(ids))
  local owners, ended = {}, {}
  for i = 1, #ids do
    if known[i] then
      local gen, user, name = parts(known[i])
      if gen == string.sub(dead[i], -4) then
        note(user, name)
        owners[#owners + 1] = user
        ended[#ended + 1] = ids[i]
      end
    end
  end
  look()
  for i = 1, #owners do has[owners[i]] = has[owners[i]] - 1 end
  redis.call('ZREM', KEYS[2], unpack(dead))
  if #ended > 0 then redis.call('HDEL', KEYS[3], unpack(ended)) end
end
if #spared > 0 then
  redis.call('PEXPIRE', KEYS[2], ARGV[1]) -- a full Redis refuses a ZADD that is the first write
  redis.call('ZADD', KEYS[2], 'XX', unpack(spared))
end
local reply, _, went = settle(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
reply[4] = #dead
reply[5] = went
reply[6] = -1
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then reply[6] = math.max(0, tonumber(first[2]) - ms) end
reply[7] = #spared / 2
return reply
