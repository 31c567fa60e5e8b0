-- announce.lua: a replica announces that it is alive, and learns of the others.
-- KEYS: 1 replicas HASH (id -> "<ms when it was last heard of> <1 if it sweeps, else 0> <about>")
-- ARGV: 1 id, 2 '1' or '0': it sweeps, or not, 3 about, 4 ms after which a silent replica is forgotten
-- Reply: four for each replica: id, ms since it was heard of, 1 or 0, about
--
-- A HASH that can't be read counts as lost: all replicas announce themselves again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local rows = redis.pcall('HGETALL', KEYS[1])
if rows.err then
  redis.call('DEL', KEYS[1])
  rows = {}
end
local reply, gone = {}, {}
for i = 1, #rows, 2 do
  local seen, sweeps, about = string.match(rows[i + 1], '^(%d+) ([01]) (.*)$')
  local age = seen and now - seen
  if not age or age > tonumber(ARGV[4]) or age < -tonumber(ARGV[4]) then
    gone[#gone + 1] = rows[i]
  elseif rows[i] ~= ARGV[1] then
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = rows[i], math.max(0, age), tonumber(sweeps), about
  end
end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local n = #reply
reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = ARGV[1], 0, tonumber(ARGV[2]), ARGV[3]
return reply
