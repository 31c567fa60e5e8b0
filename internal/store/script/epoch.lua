-- epoch.lua: a text that stays the same for as long as Redis keeps its data.
-- KEYS: 1 epoch
-- ARGV: 1 random text, for a new one; '' to change nothing
-- Reply: {epoch, '' if there is none, ms since it was made, or -1 if that is not known, ms by the clock of Redis}
--
-- The epoch begins with the time when it was made. An epoch that can't be read counts as lost.
-- The first write is one that a full Redis accepts; it fails only in a Redis that refuses all
-- writes.
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then redis.call('PERSIST', KEYS[1]) end
local epoch = redis.pcall('GET', KEYS[1])
if type(epoch) ~= 'string' or epoch == '' then
  if ARGV[1] == '' then return {'', -1, ms} end
  epoch = string.format('%.0f-%s', ms, ARGV[1])
  redis.call('SET', KEYS[1], epoch)
end
local made = tonumber(string.match(epoch, '^(%d+)%-') or '')
if not made or made > ms then return {epoch, -1, ms} end -- in the last case the clock was stepped back
return {epoch, ms - made, ms}
